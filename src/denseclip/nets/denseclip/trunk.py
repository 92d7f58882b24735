"""What every backbone of DenseCLIP is and gives."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class TrunkOutput:
    """maps: four feature maps, fine to coarse. whole: g (B, D); local: z (B, D, h, w); both None without text."""

    maps: tuple[Tensor, ...]
    whole: Tensor | None = None
    local: Tensor | None = None


class Trunk(nn.Module):
    """A backbone.

    channels: of its maps. score_level: the map that has the size of z. fresh: how the names of parameters begin
    that no pretrained weights are loaded into.
    """

    channels: tuple[int, ...]
    score_level: int
    fresh: tuple[str, ...] = ()

    def forward(self, images: Tensor) -> TrunkOutput:
        """Images (B, 3, H, W), normalised."""
        raise NotImplementedError
