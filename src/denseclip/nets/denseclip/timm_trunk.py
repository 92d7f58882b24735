"""Any timm backbone with a new attention pool on its last stage ("any-backbone", section 3.4)."""

from typing import Any, TypeAlias

from torch import Tensor

from denseclip.errors import UserError
from denseclip.nets.backbones import create_timm
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.resnet import AttentionPool
from denseclip.nets.denseclip.shapes import TimmShape
from denseclip.nets.denseclip.trunk import Trunk, TrunkOutput

HEAD_WIDTH = 64
Untyped: TypeAlias = Any  # a timm module: the package has no types


class TimmTrunk(Trunk):
    """Four stages of a timm model; with `embed_dim` g and z from an attention pool that starts at random."""

    score_level = 3

    def __init__(self, shape: TimmShape, embed_dim: int | None, config: DenseClipConfig) -> None:
        super().__init__()
        self.trunk = _create(shape.name, config.timm_pretrained)
        self.fresh = ("attnpool.",) if config.timm_pretrained else ("",)
        self.channels = tuple(self.trunk.feature_info.channels())
        strides = tuple(self.trunk.feature_info.reduction())
        if strides != (4, 8, 16, 32):
            raise UserError(
                f"timm:{shape.name} has maps at strides {strides}; take one with 4, 8, 16, 32, such as "
                "resnet50, swin_tiny_patch4_window7_224 or convnext_tiny"
            )
        heads = self.channels[-1] // HEAD_WIDTH or 1
        if self.channels[-1] % heads:
            raise UserError(
                f"timm:{shape.name} ends with {self.channels[-1]} channels, which heads of {HEAD_WIDTH} do not "
                "divide; take another backbone, such as resnet50"
            )
        self.attnpool = (
            AttentionPool(self.channels[-1], embed_dim, heads, shape.grid, config.positions)
            if embed_dim
            else None
        )

    def forward(self, images: Tensor) -> TrunkOutput:
        """Images (B, 3, H, W) -> maps at strides 4, 8, 16, 32, g and z."""
        maps = tuple(
            self._channels_first(x, c) for x, c in zip(self.trunk(images), self.channels, strict=True)
        )
        return TrunkOutput(maps) if self.attnpool is None else TrunkOutput(maps, *self.attnpool(maps[-1]))

    def _channels_first(self, x: Tensor, channels: int) -> Tensor:
        return x if x.shape[1] == channels else x.permute(0, 3, 1, 2)  # Swin has (B, h, w, C)


def _create(name: str, pretrained: bool) -> Untyped:
    options: dict[str, Any] = {"strict_img_size": False} if name.startswith("swin") else {}
    try:
        return create_timm(
            name, pretrained=pretrained, features_only=True, out_indices=(-4, -3, -2, -1), **options
        )
    except (RuntimeError, TypeError, AssertionError, IndexError) as error:  # each model in its own way
        raise UserError(
            f"timm:{name} gives no four feature maps ({' '.join(str(error).split())}); "
            "take another backbone, such as resnet50"
        ) from error
