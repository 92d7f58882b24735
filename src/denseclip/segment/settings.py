"""Everything besides the model and the words that a mask depends on."""

from dataclasses import dataclass, field, replace
from typing import Any

from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError
from denseclip.segment.background import Background
from denseclip.segment.options import Compat, DenseOptions, Refinement
from denseclip.segment.views import Slide
from denseclip.text import TEMPLATES_85


@dataclass(frozen=True)
class Settings:
    """How pictures are run and decoded.

    dense: the last block. refine: prompt denoising and key smoothing. compat: official quirks. resize: size of
    the network's frame at scale 1. slide: windows instead of the whole frame. scales: factors on the frame, each
    run and averaged. flip: average with the mirrored picture. background: the rule for class 0. templates: the
    sentences that prompts are put into.
    """

    dense: DenseOptions = field(default_factory=DenseOptions)
    refine: Refinement = field(default_factory=Refinement)
    compat: Compat = field(default_factory=Compat)
    resize: ResizeRule = ResizeRule("long-short", (2048, 512))
    slide: Slide | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    background: Background = field(default_factory=Background)
    templates: tuple[str, ...] = TEMPLATES_85

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            raise UserError(
                f"scales {self.scales} are not usable; give factors between 0.1 and 8, such as 0.75,1,1.5"
            )

    @property
    def composed(self) -> bool:
        """Whether a mask is put together from more than one network input."""
        return self.slide is not None or len(self.scales) > 1 or self.flip

    def query(self) -> "Settings":
        """These settings without what the words see: two with equal `query` partners share encodings."""
        return replace(
            self, background=Background(), templates=(), refine=Refinement(ks=float(self.refine.ks > 0))
        )

    def describe(self) -> dict[str, Any]:
        """A flat, printable form: the protocol of a figure."""
        dense = self.dense
        shown: dict[str, Any] = {
            "last block": dense.mix + ("+residual" if dense.residual else "") + ("+mlp" if dense.mlp else ""),
            "resize": str(self.resize),
            "inference": f"slide {self.slide}" if self.slide else "whole",
            "scales": ", ".join(f"{scale:g}" for scale in self.scales) + (" with flip" if self.flip else ""),
            "templates": len(self.templates),
            "prompt denoising": self.refine.pd or "off",
            "key smoothing": f"{self.refine.ks:g} over {self.refine.ks_norm}" if self.refine.ks else "off",
            "background": self._background(),
            "compat": "official" if self.compat == Compat.named("official") else self._quirks(),
        }
        if dense.sigma:
            shown["sigma"] = dense.sigma
        if dense.stride != 32:
            shown["stride"] = dense.stride
        if dense.cls_bias:
            shown["cls bias"] = dense.cls_bias
        return shown

    def _background(self) -> str:
        parts = [f"words {', '.join(self.background.words)}"] if self.background.words else []
        if self.background.threshold is not None:
            parts.append(f"probability below {self.background.threshold:g}")
        return " or ".join(parts) or "none"

    def _quirks(self) -> str:
        return ", ".join(name for name, value in vars(self.compat).items() if value) or "none"
