"""What may be varied in the last block, and in the arithmetic around it."""

from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from denseclip.errors import UserError

Mix = Literal["identity", "qk", "qq", "kk", "qq+kk"]
KeyNorm = Literal["positions", "channels"]


@dataclass(frozen=True)
class DenseOptions:
    """The last block of a CLIP ViT, or the attention pool of a CLIP ResNet, made dense.

    mix: which tokens a token looks at: only itself ("identity", the value path), or soft-max attention over
    queries and keys ("qk"), queries ("qq"), keys ("kk") or the sum of the last two ("qq+kk", rows sum to 2).
    residual, mlp: keep the residual stream, the MLP (ViT only: the attention pool has neither).
    sigma: width in patches of NACLIP's Gaussian neighbourhood, added to the attention logits; None for none.
    cls_bias: how much of the whole picture's own scores is taken off every position (SegEarth-OV: 0.3).
    stride: of a ResNet's map in pixels: 32 as trained, or 16, the same weights evaluated twice as densely.
    """

    mix: Mix = "identity"
    residual: bool = True
    mlp: bool = True
    sigma: float | None = None
    cls_bias: float = 0.0
    stride: Literal[16, 32] = 32

    def __post_init__(self) -> None:
        if self.stride not in (16, 32):
            raise UserError(f"stride {self.stride} is not possible; choose 16 or 32")
        if self.mix not in get_args(Mix):
            raise UserError(f"mix {self.mix!r} is unknown; choose one of {', '.join(get_args(Mix))}")
        if self.sigma is not None and (self.sigma <= 0 or self.mix == "identity"):
            raise UserError("sigma must be above 0 and needs a mix other than identity; try mix=kk sigma=5")


PRESETS: dict[str, DenseOptions] = {
    "maskclip": DenseOptions(),  # Zhou et al., the official code: residual and MLP kept
    "maskclip-reduced": DenseOptions(residual=False, mlp=False),
    "maskclip-dilated": DenseOptions(stride=16),  # ours, ResNets only: a map twice as fine
    "sclip": DenseOptions(mix="qq+kk"),  # Wang et al., "SCLIP", eq. 3
    "clearclip": DenseOptions(mix="qq", residual=False, mlp=False),  # Lan et al., "ClearCLIP"
    "naclip": DenseOptions(mix="kk", residual=False, mlp=False, sigma=5.0),  # Hajimiri et al., "NACLIP"
    "vanilla": DenseOptions(mix="qk"),  # CLIP as it is; for ResNets the attention-pool baseline
}


def preset(name: str | DenseOptions) -> DenseOptions:
    """The options of a published variant, or these themselves; UserError for an unknown name."""
    if isinstance(name, DenseOptions):
        return name
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]


@dataclass(frozen=True)
class Compat:
    """Deviations from CLIP's own arithmetic that the official MaskCLIP code has. Defaults: none of them.

    imagenet_stats: normalise pixels with ImageNet's mean and standard deviation. exact_gelu, eps: exact GELU
    and this epsilon in the image tower whatever the weights were trained with. count_rule: resize the position
    table only when the number of tokens differs, without antialiasing. keys_projected: keys for key smoothing
    pass the output projection. free_size: do not round the picture's size to whole patches, pad with zeros, and
    decode in two steps (map -> input -> picture). drop_all: prompt denoising may remove every class.
    """

    imagenet_stats: bool = False
    exact_gelu: bool = False
    eps: float | None = None
    count_rule: bool = False
    keys_projected: bool = False
    free_size: bool = False
    drop_all: bool = False

    @classmethod
    def named(cls, name: str | None) -> Self:
        """None or "none": no deviation; "official": all, as the published numbers were made."""
        if name in (None, "none"):
            return cls()
        if name == "official":
            return cls(True, True, 1e-6, True, True, True, True)
        raise UserError(f"compat {name!r} is unknown; choose official or none")


@dataclass(frozen=True)
class Refinement:
    """Prompt denoising and key smoothing; a threshold of 0 switches one off.

    pd: classes whose best position has a lower probability are removed. ks: positions whose best class has a
    lower probability are smoothed over similar keys, normalised over "channels" (the paper) or "positions"
    (the official code).
    """

    pd: float = 0.0
    ks: float = 0.0
    ks_norm: KeyNorm = "channels"

    def __post_init__(self) -> None:
        for name, value in (("pd", self.pd), ("ks", self.ks)):
            if not 0 <= value <= 1:
                raise UserError(
                    f"refinement {name}={value:g} is no probability; give a threshold between 0 and 1"
                )
        if self.ks_norm not in get_args(KeyNorm):
            raise UserError(f"ks-norm {self.ks_norm!r} is unknown; choose {' or '.join(get_args(KeyNorm))}")

    @classmethod
    def parse(cls, text: str | None, ks_norm: KeyNorm = "channels") -> Self:
        """Read "none", "pd", "ks", "pd+ks", each with an optional threshold: "pd=0.3+ks=0.9".

        Without one: pd 0.5 and ks 1.0, as published.
        """
        made = cls(ks_norm=ks_norm)
        for part in (text or "none").lower().split("+"):
            name, _, number = part.strip().partition("=")
            if name == "none" and not number:
                continue
            if name not in ("pd", "ks") or (number and not _is_number(number)):
                raise UserError(
                    f"refinement {text!r} is not understood; write none, pd, ks, pd+ks or pd=0.3+ks=0.9"
                )
            value = float(number) if number else {"pd": 0.5, "ks": 1.0}[name]
            made = replace(made, pd=value) if name == "pd" else replace(made, ks=value)
        return made


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
