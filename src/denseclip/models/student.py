"""The student of MaskCLIP+: backbone, decode head, and text vectors for a classifier."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.towers import ResNet as ClipResNet
from denseclip.clip.weights import load_weights
from denseclip.errors import UserError
from denseclip.models.backbones import Backbone, ResNet, ResNetShape, build_backbone
from denseclip.models.heads import build_head
from denseclip.text import BACKGROUND, ClassEmbeddings

Classifier = Literal["text", "mapped"]
OWN_SHAPE = ("resnet", "clip")  # backbones that `shape` describes


@dataclass(frozen=True)
class StudentConfig:
    """Everything that a student is built from, except words and weights.

    dim: length of the text vectors. backbone: a name of `build_backbone`; or "resnet" (ResNetV1c) or "clip"
    (CLIP's image tower) of this `shape`. head: "aspp_v2", "deeplabv3plus" or "psp". output_stride: 8, 16 or 32.
    background: a learnable vector for class 0. normalize: divide features by their norm, so that scores are
    cosines. temperature: logits are scores times this. classifier: "text", the text vectors themselves, or
    "mapped", a learned function of them (the fine-tuning baseline of MaskCLIP, section 3.2).

    Raises UserError for values that do not go together.
    """

    dim: int
    backbone: str = "resnet50"
    head: str = "aspp_v2"
    output_stride: int = 8
    background: bool = False
    normalize: bool = False
    temperature: float = 1.0
    classifier: Classifier = "text"
    shape: ResNetShape | None = None

    def __post_init__(self) -> None:
        if self.classifier not in get_args(Classifier):
            raise UserError(f"classifier {self.classifier!r} is unknown; choose text or mapped")
        if self.temperature <= 0:
            raise UserError(f"temperature {self.temperature:g} is not possible; give a number above 0")
        if self.shape is not None and self.backbone not in OWN_SHAPE:
            raise UserError(f"backbone {self.backbone!r} has its own shape; leave out shape")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, which `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict`'s values; UserError for unknown or missing ones."""
        known = {field.name for field in fields(cls)}
        strange = sorted(values.keys() - known)
        if strange or "dim" not in values:
            what = f"unknown setting {strange[0]!r}" if strange else "the setting 'dim' is missing"
            raise UserError(f"student: {what}; the settings are {', '.join(sorted(known))}")
        shape = values.get("shape")
        if shape is not None and not isinstance(shape, ResNetShape):
            shape = ResNetShape(**{**shape, "blocks": tuple(shape["blocks"])})
        return cls(**{**values, "shape": shape})


class Student(nn.Module):
    """A segmentation network whose classifier is text, so that its classes can be changed at any time.

    Parameters are named as in the official code, without its "decode_head." in front. The text vectors are in no
    state dict: they go with the words, not with the weights.
    """

    matrix: Tensor  # (P, D) unit rows, one a prompt
    class_of_prompt: Tensor  # (P,) the class of each

    def __init__(self, config: StudentConfig, backbone: Backbone, embeddings: ClassEmbeddings) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.decode_module = build_head(config.head, backbone.channels, backbone.reductions, config.dim)
        self.bg_embeddings = nn.Parameter(torch.randn(1, config.dim)) if config.background else None
        self.mapper = _mapper(config.dim) if config.classifier == "mapped" else None
        self.register_buffer("matrix", embeddings.matrix.clone(), persistent=False)
        self.register_buffer("class_of_prompt", embeddings.class_of_prompt.clone(), persistent=False)
        self.set_classes(embeddings)

    @property
    def embeddings(self) -> ClassEmbeddings:
        """The words in use, without the background."""
        return ClassEmbeddings(self.matrix, self.class_of_prompt, self._names)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by channel of the logits; with a background, that is the first."""
        return (BACKGROUND, *self._names) if self.config.background else self._names

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.matrix.device

    def set_classes(self, embeddings: ClassEmbeddings) -> None:
        """Tell other classes apart from now on; nothing is trained for that.

        embeddings: from the text tower that the student was trained with. Raises UserError if their length differs
        or if one is called "background" beside the learned one.
        """
        if embeddings.matrix.shape[1] != self.config.dim:
            raise UserError(
                f"text vectors of length {embeddings.matrix.shape[1]} do not fit the student's {self.config.dim}; "
                "embed the words with the CLIP that it was trained with"
            )
        if self.config.background and BACKGROUND in (name.strip().lower() for name in embeddings.classes):
            raise UserError("this student has a learned background; take 'background' off the classes")
        self.matrix = embeddings.matrix.detach().clone().to(self.matrix)
        self.class_of_prompt = embeddings.class_of_prompt.clone().to(self.class_of_prompt)
        self._names = embeddings.classes

    def words(self) -> ClassEmbeddings:
        """The classifier's rows as class embeddings without gradient, background first: for pseudo labels."""
        with torch.no_grad():
            matrix, owner = self._rows(), self.class_of_prompt
            if self.bg_embeddings is not None:
                matrix = torch.cat([F.normalize(self.bg_embeddings, dim=1), matrix])  # (1 + P, D)
                owner = torch.cat([owner.new_zeros(1), owner + 1])
        return ClassEmbeddings(matrix, owner, self.classes)

    def features(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized -> features (B, D, h, w), of norm 1 with `normalize`."""
        features = self.decode_module(self.backbone(images))
        return F.normalize(features, dim=1) if self.config.normalize else features

    def classify(self, features: Tensor) -> Tensor:
        """Features (B, D, h, w) -> logits (B, K, h, w) of `classes`."""
        scores = F.conv2d(features, self._rows()[:, :, None, None])  # (B, P, h, w)
        scores = self.embeddings.max_over_prompts(scores)  # (B, K, h, w)
        if self.bg_embeddings is not None:
            row = F.normalize(self.bg_embeddings, dim=1)  # (1, D)
            scores = torch.cat([F.conv2d(features, row[:, :, None, None]), scores], dim=1)
        return scores * self.config.temperature

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W), normalized -> logits (B, K, h, w) of `classes`, not upsampled."""
        return self.classify(self.features(images))

    def _rows(self) -> Tensor:
        return self.matrix if self.mapper is None else self.mapper(self.matrix)  # (P, D)


def build_student(
    config: StudentConfig,
    embeddings: ClassEmbeddings,
    *,
    pretrained: bool = False,
    tower: ClipResNet | None = None,
) -> Student:
    """A student with new weights; load a state dict into it to get a trained one.

    embeddings: the words, of length `config.dim`. pretrained: the backbone starts from ImageNet, see
    `build_backbone`. tower: where backbone "clip" starts from, and where its shape is read if `config` has none.

    Raises UserError for names, words or weights that cannot be used.
    """
    if config.backbone not in OWN_SHAPE:
        backbone = build_backbone(config.backbone, output_stride=config.output_stride, pretrained=pretrained)
        return Student(config, backbone, embeddings)
    if pretrained:
        raise UserError(f"backbone {config.backbone!r} has no ImageNet weights; leave out pretrained")
    if config.backbone == "clip" and config.shape is None and tower is not None:
        first, second, third, fourth = tower.layers
        shape = ResNetShape((first, second, third, fourth), stem=tower.width, base=tower.width)
        config = replace(config, shape=shape)
    if config.shape is None:
        raise UserError(f"backbone {config.backbone!r} needs a shape; give its blocks and widths")
    if config.backbone == "resnet":
        return Student(config, ResNet(config.shape, config.output_stride), embeddings)
    clip_backbone = ClipBackbone(config.shape.blocks, config.shape.base, output_stride=config.output_stride)
    if tower is not None:  # all of its weights but those of the attention pool
        state = {n: t for n, t in tower.state_dict().items() if not n.startswith("attnpool.")}
        load_weights(clip_backbone, state, "the image tower", "take another CLIP")
    return Student(config, clip_backbone, embeddings)


class ClipBackbone(ClipResNet, Backbone):
    """CLIP's own ResNet as a trainable backbone: the conventional fine-tuning of MaskCLIP, section 3.2."""

    def forward(self, images: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Images (B, 3, H, W) -> four maps, the sizes rounded down."""
        return self.maps(images)


def _mapper(dim: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
