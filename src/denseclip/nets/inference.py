"""Running a network that gives logits: whole or in windows, at several scales, mirrored; probabilities averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from denseclip.dense.resample import Size
from denseclip.dense.views import Composer, Slide, windows

Network = Callable[[Tensor], Tensor]  # images (B, 3, h, w) -> logits (B, K, h / stride, w / stride)


@dataclass(frozen=True)
class ViewLogits:
    """The logits of one view: coarse maps (K, h, w) of its windows and how they make up the picture."""

    maps: list[Tensor]
    composer: Composer
    mirrored: bool

    def rows(self, rows: slice) -> Tensor:
        """Logits (K, R, W) of some rows of the picture, averaged where windows overlap."""
        band = self.composer.band(self.maps, rows)
        return band.flip(-1) if self.mirrored else band


def run_view(
    network: Network, frame: Tensor, size: Size, *, slide: Slide | None = None, mirror: bool = False
) -> ViewLogits:
    """Run a frame (3, h, w), resized and normalised, for a picture of `size` (H, W).

    slide: windows; a frame smaller than a window is run as it is. mirror: the frame is mirrored first, and its
    logits back. Logits are resized bilinearly to their window, then from the frame to the picture.
    """
    frame = frame.flip(-1) if mirror else frame
    cuts = windows((frame.shape[1], frame.shape[2]), slide, flip=False)
    with torch.no_grad():
        maps = [network(cut.cut(frame)[None])[0].float() for cut in cuts]
    sizes = [(one.shape[1], one.shape[2]) for one in maps]
    return ViewLogits(maps, Composer(cuts, sizes, size), mirror)


def run_views(
    network: Network, frames: Sequence[Tensor], size: Size, *, slide: Slide | None = None, flip: bool = False
) -> list[ViewLogits]:
    """All views of a picture: its frames (3, h, w) at several scales; with `flip` each also mirrored."""
    mirrors = (False, True) if flip else (False,)
    return [
        run_view(network, frame, size, slide=slide, mirror=mirror) for frame in frames for mirror in mirrors
    ]


def probabilities(views: Sequence[ViewLogits], rows: slice | None = None) -> Tensor:
    """Mean of the views' softmax (K, R, W), of all rows or some."""
    assert views
    rows = rows or slice(0, views[0].composer.size[0])
    total = views[0].rows(rows).softmax(dim=0)
    for view in views[1:]:
        total += view.rows(rows).softmax(dim=0)
    return total / len(views)


def best_class(views: Sequence[ViewLogits]) -> Tensor:
    """The mask (H, W) int64 of the highest mean probability, in bands of rows: K * H * W is never held."""
    first = views[0]
    bands = first.composer.bands(len(first.maps[0]))
    return torch.cat([probabilities(views, rows).argmax(dim=0) for rows in bands])
