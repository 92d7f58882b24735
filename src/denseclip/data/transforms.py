"""From a picture to the network's input at test time (maskclip section a.3)."""

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denseclip.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB, pixels in 0..1; the papers' rows use these, not CLIP's own
IMAGENET_STD = (0.229, 0.224, 0.225)

_Kind = Literal["none", "short", "long", "long-short", "exact"]
_NUMBERS = {"none": 0, "short": 1, "long": 1, "long-short": 2, "exact": 2}


@dataclass(frozen=True)
class ResizeRule:
    """To which size a picture is resized before the network sees it, in pixels.

    none: as it is. short (s): the short side becomes s. long (l): the long side becomes l.
    long-short (l, s): as large as fits in l x s with its aspect ratio, the papers' rule: the short side is s
    unless the long side would pass l. exact (height, width): this size, whatever the aspect ratio.
    """

    kind: _Kind
    size: tuple[int, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read none, short:512, long:520, 2048x512 (long x short) or exact:224x200 (height x width).

        `str(rule)` writes the same form. Raises UserError for anything else.
        """
        kind, _, numbers = text.strip().lower().rpartition(":")
        if not kind:
            kind, numbers = ("none", "") if numbers == "none" else ("long-short", numbers)
        parts = numbers.split("x") if numbers else []
        known = kind in get_args(_Kind) and len(parts) == _NUMBERS[kind]
        if not known or not all(part.isdecimal() and 0 < int(part) <= 65536 for part in parts):
            raise UserError(
                f"cannot read the resize rule {text!r}: write none, short:512, long:520, "
                "2048x512 (long x short side) or exact:224x224 (height x width)"
            )
        size = tuple(int(part) for part in parts)
        return cls(kind, tuple(sorted(size, reverse=True)) if kind == "long-short" else size)  # type: ignore[arg-type]

    def __str__(self) -> str:
        numbers = "x".join(map(str, self.size))
        return {"none": "none", "long-short": numbers}.get(self.kind, f"{self.kind}:{numbers}")

    def target(self, height: int, width: int, factor: float = 1.0) -> tuple[int, int]:
        """(height, width) after resizing a picture of `height` x `width`; at least 1 x 1.

        factor: on the rule's numbers, whole ones again (as the official multi-scale test has it).
        """
        if self.kind == "none":
            return max(1, round(height * factor)), max(1, round(width * factor))
        wished = [max(1, int(number * factor)) for number in self.size]
        if self.kind == "exact":
            return wished[0], wished[1]
        sides = {"short": (min(height, width),), "long": (max(height, width),)}
        wanted = sides.get(self.kind, (max(height, width), min(height, width)))
        scale = min(new / old for new, old in zip(wished, wanted, strict=True))
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_image(image: NDArray[Any], rule: ResizeRule) -> NDArray[Any]:
    """Resize (H, W, 3) uint8 by the rule with OpenCV's bilinear filter (no antialiasing, as published)."""
    height, width = rule.target(*image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def normalise(
    image: NDArray[Any], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Tensor:
    """(H, W, 3) uint8 RGB -> float32 (3, H, W): (pixel / 255 - mean) / std, with `mean`, `std` for 0..1."""
    assert image.dtype == np.uint8
    pixels = (
        torch.from_numpy(np.require(image, requirements=["C", "W"])).permute(2, 0, 1).float()
    )  # (3, H, W)
    centre = torch.tensor(mean)[:, None, None] * 255
    scale = torch.tensor(std)[:, None, None] * 255
    return ((pixels - centre) / scale).contiguous()
