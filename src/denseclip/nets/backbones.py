"""Backbones by name: our ResNetV1c and whatever timm has."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from torch import Tensor

from denseclip.clip.model import stage_rates
from denseclip.errors import UserError
from denseclip.nets.layers import Backbone
from denseclip.nets.resnet import RESNETS, ResNet

Untyped: TypeAlias = Any  # a timm model: the package has no types
TIMM = "timm:"
V1C_WEIGHTS = {"resnet50": "resnet50c", "resnet101": "resnet101c"}  # timm's names of ImageNet's v1c weights
TIMM_STEM = {f"conv1.{i}": f"stem.{i}" for i in (0, 1, 3, 4, 6)} | {"bn1": "stem.7"}


def build_backbone(name: str, *, output_stride: int = 8, pretrained: bool = False) -> Backbone:
    """A backbone by name.

    name: "resnet18", "resnet50", "resnet101" (ResNetV1c with dilations), or "timm:NAME" for any timm model that
    gives feature maps.
    output_stride: input pixels per cell of the last map: 8, 16 or 32. timm's models that cannot be dilated keep
    their own, see `reductions` of the result.
    pretrained: ImageNet's weights, from a hub; without it the start is random.

    Raises UserError for an unknown name, an impossible output stride, and weights that there are not or that
    cannot be fetched.
    """
    stage_rates(output_stride)
    if name.startswith(TIMM):
        return TimmBackbone(name.removeprefix(TIMM), output_stride=output_stride, pretrained=pretrained)
    if name not in RESNETS:
        raise UserError(f"backbone {name!r} is unknown; choose {', '.join(RESNETS)} or timm:NAME")
    backbone = ResNet(RESNETS[name], output_stride)
    if pretrained:
        if name not in V1C_WEIGHTS:
            raise UserError(
                f"{name}: there are no ImageNet weights with this stem; leave out pretrained, "
                f"or take {TIMM}{name}"
            )
        source = create_timm(V1C_WEIGHTS[name], pretrained=True)
        backbone.load_state_dict(from_timm_names(source.state_dict()))
    return backbone


def from_timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of timm's `resnet*c` under the names of `ResNet`; the classifier of ImageNet is left out."""
    renamed = {}
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        if owner != "fc":
            renamed[f"{TIMM_STEM.get(owner, owner)}.{leaf}"] = tensor
    return renamed


class TimmBackbone(Backbone):
    """Feature maps of a timm model."""

    def __init__(self, name: str, *, output_stride: int = 8, pretrained: bool = False) -> None:
        super().__init__()
        self.net = _dilated_timm(name, output_stride, pretrained)
        self.channels = tuple(self.net.feature_info.channels())
        self.reductions = tuple(self.net.feature_info.reduction())
        self._channels_last = str(getattr(self.net, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> maps, fine to coarse."""
        maps = self.net(images)
        return [x.permute(0, 3, 1, 2) for x in maps] if self._channels_last else list(maps)


def _dilated_timm(name: str, output_stride: int, pretrained: bool) -> Untyped:
    """With the output stride if the model takes one, else as it is."""
    options: dict[str, Any] = {"features_only": True}
    if output_stride != 32:
        try:  # models that cannot be dilated say so in many ways
            net = create_timm(name, output_stride=output_stride, **options)
        except (TypeError, ValueError, AssertionError, NotImplementedError, AttributeError):
            pass
        else:
            if not pretrained:
                return net
            options["output_stride"] = output_stride
    return create_timm(name, pretrained=pretrained, **options)


def create_timm(name: str, *, pretrained: bool = False, **options: Any) -> Untyped:
    """`timm.create_model`, with one-line errors for names and weights that there are not."""
    import timm

    if not timm.is_model(name.split(".")[0]):
        close = timm.list_models(f"{name.split('.')[0]}*")[:3]
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise UserError(f"timm has no model {name!r}; {hint}")
    if not pretrained:
        return timm.create_model(name, pretrained=False, **options)
    try:
        return timm.create_model(name, pretrained=True, **options)
    except Exception as error:  # hubs fail in many ways
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(
            f"ImageNet weights of {name} cannot be fetched ({reason}); connect to the hub, or leave out pretrained"
        ) from error
