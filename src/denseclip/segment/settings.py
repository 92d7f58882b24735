"""Everything besides the model and the words that a mask depends on."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError, choose
from denseclip.text import BACKGROUND, TEMPLATES_85, ClassPrompts
from denseclip.text.embeddings import USUAL_BACKGROUND

Mix = Literal["identity", "qk", "qq", "kk", "qq+kk", "sc-clip", "proxy"]
KeyNorm = Literal["positions", "channels"]
Fusion = Literal["scores", "features"]


@dataclass(frozen=True)
class DenseOptions:
    """The last block of a CLIP ViT, or the attention pool of a CLIP ResNet, made dense.

    mix: which tokens a token looks at: only itself ("identity", the value path), or soft-max attention over
    queries and keys ("qk"), queries ("qq"), keys ("kk") or the sum of the last two ("qq+kk", rows sum to 2);
    for ViTs also "sc-clip", or "proxy", under another tower's similarities, both without residual and MLP.
    residual, mlp: keep the residual stream, the MLP (ViT only: the attention pool has neither).
    sigma: width in patches of NACLIP's Gaussian neighborhood, added to the attention logits; None for none.
    cls_bias: how much of the whole picture's own scores is taken off every position (SegEarth-OV: 0.3).
    stride: of a ResNet's map in pixels: 32 as trained, or 16, the same weights evaluated twice as densely.
    rcs, sfr: ResCLIP's corrections of the attention, each (factor, share), ViT only; `feedback_threshold`: the
    probability below which a pixel of SFR's first pass counts as word 0.
    proxy: a file of DINO or DINOv2, or "timm:NAME". proxy_heads: of its attention, if they are not 64 wide.
    """

    mix: Mix = "identity"
    residual: bool = True
    mlp: bool = True
    sigma: float | None = None
    cls_bias: float = 0.0
    stride: Literal[16, 32] = 32
    rcs: tuple[float, float] | None = None
    sfr: tuple[float, float] | None = None
    feedback_threshold: float = 0.25
    proxy: str | None = None
    proxy_heads: int | None = None

    def __post_init__(self) -> None:
        if self.stride not in (16, 32):
            raise UserError(f"stride {self.stride} is not possible; choose 16 or 32")
        if self.mix not in get_args(Mix):
            raise UserError(f"mix {self.mix!r} is unknown; choose one of {', '.join(get_args(Mix))}")
        if self.sigma is not None and (self.sigma <= 0 or self.mix == "identity"):
            raise UserError("sigma must be above 0 and needs a mix other than identity; try mix=kk sigma=5")
        if (self.rcs or self.sfr) and self.mix not in ("qk", "qq", "kk", "qq+kk"):
            raise UserError(f"rcs and sfr correct an attention, and mix {self.mix!r} has none; try mix=kk")
        if self.proxy is not None and self.mix != "proxy":
            raise UserError("a proxy tower goes with the preset proxyclip; give that, or leave out proxy")

    @property
    def vit_only(self) -> bool:
        """Whether an attention pool cannot be run like this."""
        return self.mix in ("sc-clip", "proxy") or self.rcs is not None or self.sfr is not None


PRESETS: dict[str, DenseOptions] = {
    "maskclip": DenseOptions(),  # Zhou et al., the official code: residual and MLP kept
    "maskclip-reduced": DenseOptions(residual=False, mlp=False),
    "maskclip-dilated": DenseOptions(stride=16),  # ours, ResNets only: a map twice as fine
    "sclip": DenseOptions(mix="qq+kk"),  # Wang et al., "SCLIP", eq. 3
    "clearclip": DenseOptions(mix="qq", residual=False, mlp=False),  # Lan et al., "ClearCLIP"
    "naclip": DenseOptions(mix="kk", residual=False, mlp=False, sigma=5.0),  # Hajimiri et al., "NACLIP"
    "vanilla": DenseOptions(mix="qk"),  # CLIP as it is; for ResNets the attention-pool baseline
    "sc-clip": DenseOptions(mix="sc-clip", residual=False, mlp=False),  # Bai et al., "Self-Calibrated CLIP"
    "proxyclip": DenseOptions(mix="proxy", residual=False, mlp=False),  # Lan et al., "ProxyCLIP"
}
RESCLIP: dict[str, Any] = {
    "rcs": (2.0, 0.3),
    "sfr": (2.0, 0.7),
}  # ours for all data; the paper's differ for each
PRESETS |= {  # Yang et al., "ResCLIP", and its corrections on two other bases
    "resclip": replace(PRESETS["naclip"], **RESCLIP),
    "resclip-sclip": replace(PRESETS["sclip"], **RESCLIP),
    "resclip-clearclip": replace(PRESETS["clearclip"], **RESCLIP),
}


def preset(name: str | DenseOptions) -> DenseOptions:
    """The options of a published variant, or these themselves; UserError for an unknown name."""
    if isinstance(name, DenseOptions):
        return name
    if name not in PRESETS:
        raise UserError(f"preset {name!r} is unknown; {choose(name, PRESETS)}")
    return PRESETS[name]


LATER = ("sclip", "naclip", "sc-clip", "proxyclip", "resclip")  # methods whose code shares its quirks


@dataclass(frozen=True)
class Compat:
    """Deviations from CLIP's own arithmetic that the official MaskCLIP code has. Defaults: none of them.

    imagenet_stats: normalize pixels with ImageNet's mean and standard deviation. exact_gelu, eps: exact GELU
    and this epsilon in the image tower whatever the weights were trained with. count_rule: resize the position
    table only when the number of tokens differs, without antialiasing. keys_projected: keys for key smoothing
    pass the output projection. free_size: do not round the picture's size to whole patches, pad with zeros, and
    decode in two steps (map -> input -> picture). drop_all: prompt denoising may remove every class. Of the later
    methods' code, cut: pixels beyond whole patches are cut off, not padded; tenth: positions are resized by a scale
    that is a tenth of a cell off; one_step: free_size decodes in one step; pad_56: ProxyCLIP's inputs are padded to
    multiples of 56 pixels; by_word: the soft-max is over words, not classes, with the constant logit_scale; area:
    foreground classes of at most this share of the foreground are left out.
    """

    imagenet_stats: bool = False
    exact_gelu: bool = False
    eps: float | None = None
    count_rule: bool = False
    keys_projected: bool = False
    free_size: bool = False
    drop_all: bool = False
    cut: bool = False
    tenth: bool = False
    one_step: bool = False
    pad_56: bool = False
    by_word: bool = False
    logit_scale: float | None = None
    area: float = 0.0

    @classmethod
    def named(cls, name: "str | Compat | None") -> "Compat":
        """None or "none": no deviation; "official": all, as the published numbers were made."""
        if isinstance(name, Compat):
            return name
        if name in (None, "none"):
            return cls()
        if name == "official":
            return cls(True, True, 1e-6, True, True, True, True)
        if name in LATER:
            shared = cls(
                count_rule=True, tenth=True, free_size=True, cut=True, by_word=True, logit_scale=40.0
            )
            return replace(shared, one_step=name == "sc-clip", pad_56=name == "proxyclip")
        raise UserError(f"compat {name!r} is unknown; choose official, {', '.join(LATER)} or none")


@dataclass(frozen=True)
class Refinement:
    """Prompt denoising, key smoothing, PAMR and the guided filter; 0 switches one off.

    pd: classes whose best position has a lower probability are removed. ks: positions whose best class has a
    lower probability are smoothed over similar keys, normalized over "channels" (the paper) or "positions"
    (the official code). pamr: steps in which scores at the picture's size follow its colors. guided: outlines follow
    the picture's edges, at little cost.
    """

    pd: float = 0.0
    ks: float = 0.0
    ks_norm: KeyNorm = "channels"
    pamr: int = 0
    guided: bool = False

    def __post_init__(self) -> None:
        for name, value in (("pd", self.pd), ("ks", self.ks)):
            if not 0 <= value <= 1:
                raise UserError(
                    f"refinement {name}={value:g} is no probability; give a threshold between 0 and 1"
                )
        if self.pamr and self.guided:
            raise UserError("refinements pamr and guided both move outlines; give one of them")
        if not 0 <= self.pamr <= 100:
            raise UserError(f"refinement pamr={self.pamr} is not possible; give 1 to 100 steps")
        if self.ks_norm not in get_args(KeyNorm):
            raise UserError(f"ks-norm {self.ks_norm!r} is unknown; choose {' or '.join(get_args(KeyNorm))}")

    @classmethod
    def parse(cls, text: str | None, ks_norm: KeyNorm = "channels") -> Self:
        """Read "none", or "pd", "ks", "pamr", "guided" with + between them; "pd=0.3+ks=0.9+pamr=10" has numbers.

        Without one: pd 0.5, ks 1.0 and 10 steps of PAMR, as published.
        """
        made = cls(ks_norm=ks_norm)
        for part in (text or "none").lower().split("+"):
            name, _, number = part.strip().partition("=")
            if name == "none" and not number:
                continue
            if part.strip() == "guided":
                made = replace(made, guided=True)
                continue
            whole = name != "pamr" or number in ("", *map(str, range(1, 101)))
            if name not in ("pd", "ks", "pamr") or (number and not _is_number(number)) or not whole:
                raise UserError(
                    f"refinement {text!r} is not understood; write none, pd, ks, pamr, guided, pd+ks or pd=0.3+ks=0.9"
                )
            value = float(number) if number else {"pd": 0.5, "ks": 1.0, "pamr": 10}[name]
            made = replace(made, **{name: int(value) if name == "pamr" else value})  # type: ignore[arg-type]
        return made


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


AUTO, NONE, USUAL, GUIDED = "auto", "none", "usual", "guided"


@dataclass(frozen=True)
class Background:
    """How a pixel becomes background: by words, a probability, or (auto) because none of the classes fits.

    With any of them, class 0 of every mask is "background". words: that describe it; "usual" stands for a list.
    threshold: in 0..1, of the soft-max over all words, with CLIP's own temperature, of the winning word. auto:
    where one of some 650 generic words fits clearly better than all of the user's, see `with_pool`.
    """

    words: tuple[str, ...] = ()
    threshold: float | None = None
    auto: bool = False

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise UserError(
                f"background threshold {self.threshold:g} is no probability; give one between 0 and 1"
            )

    def __bool__(self) -> bool:
        return self.scored or self.threshold is not None

    @property
    def scored(self) -> bool:
        """Whether the background has scores of its own, as class 0."""
        return bool(self.words) or self.auto

    def prompts(self, class_prompts: ClassPrompts) -> ClassPrompts:
        """What is embedded: the user's classes, behind class 0 if there are background words.

        The word "usual" stands for a list of usual backgrounds, without the user's own words.
        """
        if not self.words:
            return class_prompts
        if self.words == (USUAL,):
            taken = {word.strip().lower() for word in class_prompts.words}
            return class_prompts.with_background([word for word in USUAL_BACKGROUND if word not in taken])
        return class_prompts.with_background(list(self.words))

    def names(self, class_prompts: ClassPrompts) -> tuple[str, ...]:
        """Class names by mask id."""
        if not self and class_prompts.from_one:
            raise UserError(
                "the ids of the classes begin at 1, and without a background rule masks count from 0; leave out "
                "--background none, or number the classes from 0"
            )
        if self and has_background(class_prompts):
            raise UserError("there is a class 'background' already; rename it or give no background rule")
        return (BACKGROUND, *class_prompts.classes) if self else class_prompts.classes


def has_background(class_prompts: ClassPrompts) -> bool:
    """Whether the user looks for a background himself."""
    return BACKGROUND in (name.strip().lower() for name in class_prompts.classes)


@dataclass(frozen=True)
class Slide:
    """Windows of `crop` x `crop` pixels every `stride` pixels; the last one is shifted inside the picture."""

    crop: int
    stride: int

    def __post_init__(self) -> None:
        if not 0 < self.stride <= self.crop:
            raise UserError(
                f"slide {self.crop}/{self.stride} is not possible; the stride must be 1 to {self.crop}"
            )

    @classmethod
    def parse(cls, text: str) -> "Slide":
        """Read "224/112" (crop/stride)."""
        crop, slash, stride = text.partition("/")
        if not (slash and crop.strip().isdecimal() and stride.strip().isdecimal()):
            raise UserError(f"slide {text!r} is not understood; write crop/stride in pixels, such as 224/112")
        return cls(int(crop), int(stride))

    def __str__(self) -> str:
        return f"{self.crop}/{self.stride}"

    def starts(self, length: int) -> list[int]:
        """First pixels of the windows along an axis of `length` pixels."""
        if length <= self.crop:
            return [0]
        count = -(-(length - self.crop) // self.stride) + 1
        return [min(i * self.stride, length - self.crop) for i in range(count)]


@dataclass(frozen=True)
class Settings:
    """How pictures are run and decoded.

    dense: the last block. refine: prompt denoising and key smoothing. compat: official quirks. resize: size of
    the network's frame at scale 1. slide: windows instead of the whole frame. scales: factors on the frame, each
    run and averaged.
    fusion: windows meet in their scores, or in their features before the last norm. flip: average with the
    mirrored picture. background: the rule for class 0. templates: the sentences that prompts are put into.
    """

    dense: DenseOptions = field(default_factory=DenseOptions)
    refine: Refinement = field(default_factory=Refinement)
    compat: Compat = field(default_factory=Compat)
    resize: ResizeRule = ResizeRule("long-short", (2048, 512))
    slide: Slide | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    fusion: Fusion = "scores"
    background: Background = field(default_factory=Background)
    templates: tuple[str, ...] = TEMPLATES_85

    def __post_init__(self) -> None:
        if not self.scales or not all(0.1 <= scale <= 8 for scale in self.scales):
            raise UserError(
                f"scales {self.scales} are not usable; give factors between 0.1 and 8, such as 0.75,1,1.5"
            )
        if self.fusion not in get_args(Fusion):
            raise UserError(f"fusion {self.fusion!r} is unknown; choose {' or '.join(get_args(Fusion))}")
        if self.fusion == "features" and (self.refine.ks or self.dense.cls_bias or self.dense.sfr):
            raise UserError("fusion=features goes without key smoothing, cls_bias and sfr; leave them out")

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
        if self.fusion == "features":
            shown["fusion"] = self.fusion
        if self.refine.pamr:
            shown["PAMR"] = f"{self.refine.pamr} steps"
        if self.refine.guided:
            shown["outlines"] = "guided filter"
        for name in ("sigma", "rcs", "sfr", "proxy"):
            if value := getattr(dense, name):
                shown[name] = list(value) if isinstance(value, tuple) else value  # as JSON gives it back
        if dense.sfr:
            shown["feedback threshold"] = dense.feedback_threshold
        if dense.stride != 32:
            shown["stride"] = dense.stride
        if dense.cls_bias:
            shown["cls bias"] = dense.cls_bias
        return shown

    def _background(self) -> str:
        parts = [f"words {', '.join(self.background.words)}"] if self.background.words else []
        if self.background.auto:
            parts.append("auto (generic words)")
        if self.background.threshold is not None:
            parts.append(f"probability below {self.background.threshold:g}")
        return " or ".join(parts) or "none"

    def _quirks(self) -> str:
        given = ((name, value) for name, value in vars(self.compat).items() if value)
        return ", ".join(name if value is True else f"{name} {value:g}" for name, value in given) or "none"
