"""Dense features of a picture: unit vectors in CLIP's space at every position of a coarse map."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.clip import Clip, ImageStats
from denseclip.clip.model import ResNet
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from denseclip.errors import UserError
from denseclip.segment.attention import Dense, dense_resnet, dense_vit
from denseclip.segment.options import Compat, DenseOptions


@dataclass(frozen=True)
class DenseFeatures:
    """Features of B network inputs, float32.

    map: (B, D, h, w), unit vectors for a CLIP. keys: (B, hw, E), for key smoothing. whole: (B, D) unit vectors of
    the whole inputs. logits: (B, K, h, w), what a trained model says of its own classes.
    """

    map: Tensor
    keys: Tensor | None = None
    whole: Tensor | None = None
    logits: Tensor | None = None


class DenseEncoder:
    """A CLIP's image tower made dense under given options."""

    def __init__(
        self,
        clip: Clip,
        options: DenseOptions | None = None,
        compat: Compat | None = None,
    ) -> None:
        self.clip = clip
        self.options = options or DenseOptions()
        self.compat = compat or Compat()
        if isinstance(clip.visual, ResNet):
            self.stride: int = self.options.stride
            return
        if self.options.stride != 32:
            raise UserError(
                f"{clip.name} is a ViT, its map has one cell a patch; leave out stride, or take a ResNet"
            )
        self.stride = clip.visual.patch_size
        quick = clip.quick_gelu and not self.compat.exact_gelu
        self._vit = clip.visual.variant(quick_gelu=quick, eps=self.compat.eps)

    @property
    def stats(self) -> ImageStats:
        """How pixels in 0..1 are normalised before `encode`."""
        return ImageStats(IMAGENET_MEAN, IMAGENET_STD) if self.compat.imagenet_stats else self.clip.stats

    @torch.inference_mode()
    def encode(self, images: Tensor, *, keys: bool = False, unit: bool = True) -> DenseFeatures:
        """Images (B, 3, H, W), normalised by `stats`, of any size -> dense features.

        unit: divide every position by its norm.

        The map is ceil(H / patch) high for ViTs, floor(H / stride) for ResNets, whose sides must be at least 32.
        Positions are divided by their norm without an epsilon, as in the official code.
        """
        images = images.to(self.clip.device, self.clip.dtype)
        features, wanted, whole = self._run(images, keys=keys)
        features = features.float()  # (B, D, h, w)
        return DenseFeatures(
            features / features.norm(dim=1, keepdim=True) if unit else features,
            None if wanted is None else wanted.float(),
            None if whole is None else F.normalize(whole.float(), dim=-1),
        )

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Cosines (B, P, h, w) of every position with the unit rows of `matrix` (P, D), minus the picture's own."""
        scores = torch.einsum("bdhw,pd->bphw", features.map, matrix)
        if features.whole is not None:
            own = features.whole @ matrix.T  # (B, P)
            scores = scores - self.options.cls_bias * own[:, :, None, None]
        return scores

    def _run(self, images: Tensor, *, keys: bool) -> Dense:
        if isinstance(self.clip.visual, ResNet):
            images = images.contiguous(memory_format=torch.channels_last)
            return dense_resnet(self.clip.visual, images, self.options, keys=keys)
        return dense_vit(self._vit, images, self.options, self.compat, keys=keys)
