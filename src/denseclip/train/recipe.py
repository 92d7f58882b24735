"""What a training depends on, as typed fields; recipes are TOML files of them (maskclip section d, denseclip 4.1).

A field that a recipe leaves out has its `base` recipe's value, or the value below, which is the papers' where they
share one.
"""

import tomllib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from denseclip.data.instances import BoxAugmentation
from denseclip.data.transforms import Augmentation, ResizeRule
from denseclip.errors import UserError, choose
from denseclip.models.heads import HeadKind


def _to_the_end(phase: object) -> object:
    """TOML has no null: "none" for no phase, [n] for from n to the end."""
    if phase == "none":
        return None
    return (*phase, None) if isinstance(phase, list | tuple) and len(phase) == 1 else phase


CLIP_START = "clip:"
"""A student's backbone that starts from a CLIP by name."""

Phase = Annotated[tuple[int, int | None] | None, BeforeValidator(_to_the_end)]
"""First and last optimizer step (from 1) of a phase; [n] for from n to the end, "none" for no such phase."""


class Part(BaseModel):
    """A section of a recipe: immutable, unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataPart(Part):
    """train, split, images: the data set, its split and how many of its images. classes: with it, `train` is a
    folder of pictures without annotation, in which these words are looked for; background: and what is none of
    them, which the teacher has to find. holdout: every so many-th image is not trained on, but kept for the report.
    side: of sticker scenes, in pixels.
    val, val_split, val_images: what is evaluated at the end; None for no evaluation.
    """

    train: str
    split: str = "train"
    images: int | None = Field(None, ge=1)
    classes: str | None = None
    background: bool = False
    holdout: int | None = Field(None, ge=2)
    side: int | None = Field(None, ge=32, le=2048)
    val: str | None = None
    val_split: str | None = None
    val_images: int | None = Field(None, ge=1)


class AugmentPart(Part):
    """See `Augmentation`. resize None: the data set's own rule."""

    resize: str | None = None
    ratio: tuple[float, float] = (0.5, 2.0)
    crop: tuple[int, int] = (512, 512)
    cat_max_ratio: float = Field(0.75, gt=0, le=1)
    flip: float = Field(0.5, ge=0, le=1)
    colors: bool = True

    def build(self, usual: ResizeRule) -> Augmentation:
        """The augmentation, with a data set's rule where the recipe has none."""
        rule = usual if self.resize is None else ResizeRule.parse(self.resize)
        return Augmentation(rule, self.ratio, self.crop, self.cat_max_ratio, self.flip, self.colors)


class StudentPart(Part):
    """The network of MaskCLIP+, see `denseclip.models.student.StudentConfig`.

    pretrained: ImageNet weights of the backbone.

    backbone "clip" starts from the image tower of the teacher's CLIP, "clip:NAME" from that of another one.
    """

    backbone: str = "resnet101"
    head: HeadKind = "aspp_v2"
    output_stride: Literal[8, 16, 32] = 8
    pretrained: bool = True
    background: bool = False
    normalize: bool = False
    temperature: float = Field(1.0, gt=0)
    classifier: Literal["text", "mapped"] = "text"

    @property
    def from_clip(self) -> bool:
        """Whether the backbone is a CLIP's image tower."""
        return self.backbone == "clip" or self.backbone.startswith(CLIP_START)


class TeacherPart(Part):
    """The training-free model whose labels are learned; the fields are those of `denseclip segment`.

    official: its quirks, as the published numbers have them. cache: run it once on each whole image, not on
    every crop, and cut its scores like the image. background: how it finds the data's class 0, as `--background`;
    None if it does not.
    """

    model: str = "RN50"
    preset: str = "maskclip"
    refine: str | None = None
    ks_norm: Literal["positions", "channels"] = "positions"
    official: bool = True
    cache: bool = False
    background: str | None = None


class LabelsPart(Part):
    """Which labels are hidden, and what takes their place.

    hide: "all" classes (annotation-free), the "unseen" ones (zero-shot) or "none" (supervised). guided: the steps
    in which hidden pixels get the teacher's label; self_training: the student's own. Hidden pixels in neither are
    ignored. ignore_mask: "ground truth" keeps pixels ignored that the annotation ignores, as in the papers'
    numbers; "none" (with hide = "all") labels the whole picture, and no annotation is read. order: "official"
    matches at map resolution, "v1" after upsampling. confidence: hidden pixels below it are ignored.
    average: of the loss over all pixels ("official") or over those with a label. distillation: weight of the L1
    distance to the teacher's features.
    """

    hide: Literal["all", "unseen", "none"] = "all"
    guided: Phase = (1, None)
    self_training: Phase = None
    ignore_mask: Literal["ground truth", "none"] = "ground truth"
    order: Literal["official", "v1"] = "official"
    confidence: float = Field(0.0, ge=0, lt=1)
    average: Literal["official", "valid"] = "official"
    distillation: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.ignore_mask == "none" and self.hide != "all":
            raise ValueError(
                'ignore_mask = "none" goes with hide = "all": other labels come from the annotation'
            )
        phases = [phase for phase in (self.guided, self.self_training) if phase is not None]
        if self.hide == "none" and phases and self.guided != (1, None):
            raise ValueError('hide = "none" leaves nothing to guide: leave out guided and self_training')
        return self


class DenseClipPart(Part):
    """The network of DenseCLIP. clip: where it starts from; weights "random": only its sizes. config: the fields of
    `denseclip.models.config.DenseClipConfig`, such as prompting = "pre" or language = false (the CLIP baseline).
    """

    clip: str = "RN50"
    weights: Literal["clip", "random"] = "clip"
    config: dict[str, Any] = {}


class DetectionPart(Part):
    """A detector around the network of `denseclip`.

    config: the fields of `denseclip.detection.config.DetectorConfig`, such as kind = "maskrcnn" or profile = "mmdet".
    resize, ratio, crop, flip, colors: see `BoxAugmentation`; crop None: whole pictures, padded to the largest of
    their batch.
    """

    config: dict[str, Any] = {}
    resize: str = "1333x800"
    ratio: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    flip: float = Field(0.5, ge=0, le=1)
    colors: bool = False

    def build(self, *, masks: bool) -> BoxAugmentation:
        """The augmentation; masks: whether masks go with the boxes."""
        rule = ResizeRule.parse(self.resize)
        return BoxAugmentation(rule, self.ratio, self.crop, self.flip, self.colors, masks)


class EvaluationPart(Part):
    """How the trained model is run on `data.val`: see `denseclip segment`. resize None: the data set's own rule."""

    resize: str | None = None
    slide: str | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False


class OptimizerPart(Part):
    """SGD or AdamW; after a linear warm-up of `warmup` steps from `warmup_ratio` the rate falls by the poly schedule
    from lr to min_lr, or to a tenth after each of the steps in `drops`. clip: largest norm of all gradients.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    power: float = Field(0.9, gt=0)
    min_lr: float = Field(1e-4, ge=0)
    drops: tuple[int, ...] = ()
    warmup: int = Field(0, ge=0)
    warmup_ratio: float = Field(1e-6, gt=0, le=1)
    clip: float | None = Field(None, gt=0)


class TrainRecipe(Part):
    """One training. student, teacher and labels are parts of "maskclip+", denseclip is one of "denseclip"; of
    "detection", which has its own augmentation, are denseclip and detection.

    published: table, row and figure that it stands for, for the reader. batch: images an optimizer step, over all
    processes and `accumulate` parts. workers: processes that read and augment. compile: the blocks of the network
    that learns, by torch.compile: half a minute at the start, a faster step on a GPU. checkpointing: what is inside
    of these blocks is computed again for the backward pass and not kept, the same values in less memory and more
    time. save_every, panel_every,
    probe_every: in steps; 0 for never.
    """

    title: str = ""
    published: str = ""
    system: Literal["maskclip+", "denseclip", "detection"] = "maskclip+"
    data: DataPart
    augment: AugmentPart = AugmentPart()
    student: StudentPart = StudentPart()
    teacher: TeacherPart = TeacherPart()
    labels: LabelsPart = LabelsPart()
    denseclip: DenseClipPart = DenseClipPart()
    detection: DetectionPart = DetectionPart()
    optimizer: OptimizerPart = OptimizerPart()
    evaluation: EvaluationPart = EvaluationPart()
    steps: int = Field(20_000, ge=1)
    batch: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    seed: int = 0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    workers: int = Field(2, ge=0)
    compile: bool = False
    checkpointing: bool = False
    save_every: int = Field(500, ge=0)
    panel_every: int = Field(500, ge=0)
    probe_every: int = Field(500, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.system != "maskclip+" and self.labels.hide != "none":
            raise ValueError(f'system = "{self.system}" learns from annotation; set labels.hide = "none"')
        if self.batch % self.accumulate:
            raise ValueError(
                f"batch = {self.batch} does not divide into accumulate = {self.accumulate} parts"
            )
        return self

    def parts(self, processes: int) -> int:
        """Forward passes of a process in a step: so many processes do what `accumulate` would do one by one."""
        return max(1, self.accumulate // processes)

    @property
    def clips(self) -> tuple[str, ...]:
        """The CLIPs it starts from. Even without guidance a teacher's text vectors are the classifier."""
        if self.system != "maskclip+":
            return (self.denseclip.clip,)
        other = self.student.backbone.removeprefix(CLIP_START)
        return (self.teacher.model,) if other == self.student.backbone else (self.teacher.model, other)

    @property
    def teacher_needed(self) -> bool:
        """Whether the teacher labels anything."""
        return self.labels.hide != "none" and (self.labels.guided is not None or self.labels.distillation > 0)


FOLDER = "training"


def recipe_names() -> tuple[str, ...]:
    """The recipes that come with the package."""
    folder = files("denseclip.recipes") / FOLDER
    return tuple(sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".toml")))


def read_recipe(source: str | Path, changes: Sequence[str] = ()) -> TrainRecipe:
    """A recipe by name or from a TOML file, with "key=value" changes ("data.images=100").

    Raises UserError for an unknown recipe or key, a value of the wrong kind, and contradictions.
    """
    content = _content(str(source))
    for change in changes:
        _change(content, change)
    return make_recipe(content, str(source))


def _content(name: str) -> dict[str, Any]:
    """The plain values of a recipe, laid over those of its `base`."""
    path = Path(name)
    if name in recipe_names():
        text = (files("denseclip.recipes") / FOLDER / f"{name}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml" and path.is_file():
        text = path.read_text(encoding="utf-8")
    else:
        raise UserError(f"there is no recipe {name!r}; {choose(name, recipe_names())} (or give a .toml file)")
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{name} is no TOML: {error}; correct it") from None
    base = content.pop("base", None)
    return content if base is None else laid_over(_content(base), content)


def laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values, those `above` where both have a key."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(value, Mapping) and isinstance(old, dict)
        merged[key] = laid_over(old, value) if both else value  # type: ignore[arg-type]
    return merged


def parse_changes(changes: Sequence[str]) -> dict[str, Any]:
    """["data.images=100"] -> {"data": {"images": 100}}; UserError for what is no key=value."""
    content: dict[str, Any] = {}
    for change in changes:
        _change(content, change)
    return content


def make_recipe(content: Mapping[str, Any], name: str = "recipe") -> TrainRecipe:
    """Check plain values; UserError in one line for what is wrong first."""
    try:
        return TrainRecipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{name}: {_first(error)}") from None


def _change(content: dict[str, Any], change: str) -> None:
    key, equals, value = change.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UserError(
            f"{change!r} is not understood; write key=value, such as steps=200 or data.images=100"
        )
    for part in parts[:-1]:
        content = content.setdefault(part, {})
        if not isinstance(content, dict):
            raise UserError(f"{key!r} is no key: {part} has no keys of its own")
    content[parts[-1]] = _value(value.strip())


def _value(text: str) -> object:
    """A TOML value, or the text itself; "none" for None, which TOML lacks."""
    if text.lower() == "none":
        return None
    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown key {key}; {choose(key, _keys(TrainRecipe), 'see `denseclip train --help`')}"
    if first["type"] == "missing":
        return f"{key} is missing; add it"
    message = first["msg"].removeprefix("Value error, ")
    if not key or isinstance(first.get("input"), dict):
        return message
    return f"{key} = {first.get('input')!r}: {message[:1].lower()}{message[1:]}"


def _keys(part: type[BaseModel], prefix: str = "") -> list[str]:
    found = []
    for name, field in part.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Part)
        found += _keys(kind, f"{prefix}{name}.") if nested else [prefix + name]  # type: ignore[arg-type]
    return found


_NAMED_R101 = "the official file is named deeplabv2_r101, its network is a ResNet-50, and so is this one"
_RESNET_50 = (
    "voc20-annofree-vit16",
    "cityscapes-annofree-vit16",
    "context59-annofree-vit16",
    "context59-annofree-vit16-ks",
    "context59-annofree-vit16-pd",
    "context59-annofree-vit16-kspd",
    "context59-annofree-vit16-distill",
    "coco-stuff-annofree-vit16",
    "coco-stuff-annofree-vit16-ks",
    "coco-stuff-annofree-vit16-pd",
    "coco-stuff-annofree-vit16-kspd",
    "web-blur",
    "web-car-brands",
    "web-sports",
)
_DETECTORS = tuple(
    f"coco-{words}{kind}-{net}"
    for words in ("", "denseclip-")
    for kind in ("retinanet", "maskrcnn")
    for net in ("rn50", "rn101")
)
_NORMS = "the official network takes no norm_eval and drops it without a word: its batch norms are trained"
DIFFERENCES: dict[tuple[str, str], str] = {
    **{(name, "name"): _NAMED_R101 for name in _RESNET_50},
    **{(name, "detection.norm_eval"): _NORMS for name in _DETECTORS},
    ("ade20k-fpn-rn101", "denseclip.pretrained"): (
        "the official file loads RN50's weights into 101 layers without an error, and 17 blocks stay random"
    ),
    ("web-batman-ext", "classes"): "the official file has 12 classes, the set of words that it names 26",
    ("context59-annofree-vit16-distill", "distillation"): (
        "the official code detaches the student's features, so that its distillation trains nothing; here it trains"
    ),
}
"""{(recipe, option): reason}."""


def of_recipe(name: str) -> dict[str, str]:
    """{option: reason} of a recipe."""
    return {option: reason for (recipe, option), reason in DIFFERENCES.items() if recipe == name}
