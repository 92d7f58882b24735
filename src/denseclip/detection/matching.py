"""Which thing an anchor or a region learns, and boxes from deltas, as mmdetection has both."""

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder, Matcher

from denseclip.detection.config import Profile


class MaxIou(Matcher):
    """A thing for every box that overlaps it most: by `high` at least; below `low` none; in between it is ignored.

    least: every thing also gets the boxes that overlap it most, if by so much, even if they overlap another thing
    more; of several things the last one gets a box. Torchvision asks for no least overlap, and gives such a box to
    the thing that it overlaps most.
    """

    def __init__(self, high: float, low: float, least: float) -> None:
        super().__init__(high, low, allow_low_quality_matches=True)
        self.least = least

    def __call__(self, match_quality_matrix: Tensor) -> Tensor:
        """Overlaps (things, boxes) -> for each box a thing, -1 for none, -2 for ignored."""
        if not match_quality_matrix.shape[1]:  # torchvision refuses that
            return torch.zeros(0, dtype=torch.int64, device=match_quality_matrix.device)
        return super().__call__(match_quality_matrix)

    def set_low_quality_matches_(
        self, matches: Tensor, all_matches: Tensor, match_quality_matrix: Tensor
    ) -> None:
        """See the class; changes `matches`."""
        del all_matches
        for thing, overlaps in enumerate(match_quality_matrix):
            best = overlaps.max()
            matches[:] = torch.where((overlaps == best) & (best >= self.least), thing, matches)


class TwoSidedCoder(BoxCoder):
    """A box becomes at most 62.5 times smaller, not only at most so much larger."""

    def decode_single(self, rel_codes: Tensor, boxes: Tensor) -> Tensor:
        """Deltas (N, 4 K) and boxes (N, 4) -> (N, 4 K)."""
        codes = rel_codes.clone()
        for i in (2, 3):  # width, height
            codes[:, i::4] = codes[:, i::4].clamp_min(-self.bbox_xform_clip * self.weights[i])
        return super().decode_single(codes, boxes)


def box_coder(weights: tuple[float, float, float, float], profile: Profile) -> BoxCoder:
    """Deltas of boxes and back; they are multiplied by the weights, the inverse of mmdetection's deviations."""
    return (TwoSidedCoder if profile.two_sided_deltas else BoxCoder)(weights)


def matcher(high: float, low: float, least: float, profile: Profile, *, usual: bool = True) -> Matcher:
    """See `MaxIou`; usual: whether torchvision gives things their best boxes too."""
    return MaxIou(high, low, least) if profile.max_iou else Matcher(high, low, usual)
