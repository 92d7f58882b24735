"""Trained students and DenseCLIPs as models behind a Segmenter."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import Clip, ImageStats, load_clip
from denseclip.clip.clip import OPENAI_STATS, fingerprint_of
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from denseclip.errors import UserError
from denseclip.models.checkpoint import DETECTORS, read_saved, restore, trained_kind
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseCLIPBase, DenseClipSegmenter, build_denseclip, freeze_text
from denseclip.models.encoders import Encoded, Shapes
from denseclip.models.official import load_official, load_published
from denseclip.models.student import Student, StudentConfig, build_student
from denseclip.segment.attention import DenseFeatures
from denseclip.segment.interface import TrainedModel
from denseclip.text import (
    TEMPLATES_85,
    ClassEmbeddings,
    ClassPrompts,
    EmbeddingCache,
    class_set,
    embed_classes,
)
from denseclip.text.prompts import LITERAL

OF_LENGTH = {1024: ("RN50",), 512: ("ViT-B-16", "RN101"), 640: ("RN50x4",), 768: ("RN50x16",)}
IMAGENET_STATS = ImageStats(IMAGENET_MEAN, IMAGENET_STD)
SAME_WORDS = 0.99  # mean cosine


class TrainedStudent(TrainedModel):
    """A MaskCLIP+ student: its own classes from stored vectors, other words from the CLIP it learned from."""

    model: Student

    def __init__(
        self, name: str, student: Student, class_prompts: ClassPrompts, text: Mapping[str, str]
    ) -> None:
        """class_prompts: of all channels, background first if there is one. text: see `Teacher.source`."""
        scale = student.config.temperature
        super().__init__(name, student, class_prompts, IMAGENET_STATS, logit_scale=scale)
        self.text = dict(text)

    @classmethod
    def of(cls, name: str, saved: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Self:
        """Rebuild from a checkpoint's content; every weight has to be there."""
        contents = saved["contents"]
        embeddings = ClassEmbeddings(contents["matrix"], contents["owner"], tuple(contents["classes"]))
        student = build_student(StudentConfig.from_dict(contents["config"]), embeddings)
        restore(student, saved, name)
        prompts = tuple(tuple(words) for words in contents["prompts"])
        class_prompts = ClassPrompts(
            student.classes, (("background",), *prompts) if student.config.background else prompts
        )
        return cls(name, student, class_prompts, contents["text"]).to(device, dtype)

    @classmethod
    def published(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """A .pth of the official code, see `load_published`."""
        student = load_published(path)
        prompts = tuple((name,) for name in student.classes)
        return cls(str(path), student, ClassPrompts(student.classes, prompts), {}).to(device, dtype)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all weights, and over the vectors of its own words."""
        state = self.model.state_dict() | {"matrix": self.model.matrix}
        return fingerprint_of(dict(sorted(state.items())))

    @property
    def kind(self) -> str:
        """In a few words, for `describe`."""
        config = self.model.config
        return f"MaskCLIP+ student, {config.backbone}, {config.head}, stride {config.output_stride}"

    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Images (B, 3, H, W), normalized by `stats` -> features (B, D, h, w), not normalized unless trained so."""
        assert not keys
        return DenseFeatures(self.model.features(images.to(self.model.matrix)).float())

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Products (B, P, h, w) of every position with the rows of `matrix` (P, D)."""
        return F.conv2d(features.map, matrix[:, :, None, None])

    def embed(
        self, class_prompts: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Its own words from what it was trained with, others through the text tower of its CLIP."""
        known = dict(
            zip(self.class_prompts.words, self.model.words().matrix, strict=True)
        )  # the background first
        new = [word for word in class_prompts.words if word not in known]
        if new:
            flat = ClassPrompts(tuple(new), tuple((word,) for word in new))
            rows = embed_classes(self._clip, flat, templates, cache=cache).matrix.to(self.device, self.dtype)
            if self.model.mapper is not None:
                rows = self.model.mapper(rows)
            known |= zip(new, rows, strict=True)
        matrix = torch.stack([known[word] for word in class_prompts.words]).float()  # (P, D)
        owner = torch.tensor(class_prompts.class_of_prompt, device=self.device)
        return ClassEmbeddings(matrix, owner, class_prompts.classes)

    def network(
        self, class_prompts: ClassPrompts | None, templates: Sequence[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """A network from normalized images (B, 3, H, W) to logits (B, K, h, w), and its K class names.

        class_prompts: other words than its own.
        """
        if class_prompts is None:
            return self.model, self.model.classes
        return _Fixed(self.model, self.embed(class_prompts, templates, None)), class_prompts.classes

    @cached_property
    def _clip(self) -> Clip:
        """The CLIP whose words these are; UserError if it is not at hand or another one."""
        if not self.text:
            return self._clip_of_published()
        name = self.text["clip"]
        clip = self._load_clip(name)
        if clip.fingerprint != self.text["fingerprint"]:
            raise UserError(
                f"{name} is not the CLIP that {self.name} was trained with; use its own classes, or train again"
            )
        return clip

    def _clip_of_published(self) -> Clip:
        """The file does not say which CLIP: the one of this length that gives its words the file's vectors."""
        names = OF_LENGTH.get(self.model.config.dim, ())
        rows = self.model.embeddings.matrix.float()  # (K, D)
        words = ClassPrompts.parse(list(self.model.embeddings.classes))
        for name in names:
            clip = self._load_clip(name)
            found = embed_classes(clip, words, TEMPLATES_85, cache=None).matrix
            if (found * rows).sum(1).mean() > SAME_WORDS:
                return clip
        raise UserError(
            f"{self.name} does not say which CLIP its words are of, and {' or '.join(names) or 'none'} does not fit; "
            "use its own classes"
        )

    def _load_clip(self, name: str) -> Clip:
        try:
            return load_clip(name, device=self.device)
        except UserError as error:
            raise UserError(f"other words than the student's own need its CLIP: {error}") from None


class _Fixed(nn.Module):
    """A student's features under given words."""

    matrix: Tensor

    def __init__(self, student: Student, words: ClassEmbeddings) -> None:
        super().__init__()
        self.student, self.words = student, words
        self.register_buffer("matrix", words.matrix)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, K, h, w)."""
        return self.words.max_over_prompts(
            F.conv2d(self.student.features(images), self.matrix[:, :, None, None])
        )


def contents_of(model: DenseCLIPBase, stats: ImageStats) -> dict[str, Any]:
    """What a checkpoint needs beside the weights. stats: how its pictures were normalized."""
    return {
        "config": model.config.to_dict(),
        "shapes": model.shapes.to_dict(),
        "classes": list(model.classes),
        "stats": asdict(stats),
    }


class TrainedDenseClip(TrainedModel):
    """A DenseCLIP: its own classes by its head, other words by its score map alone."""

    model: DenseClipSegmenter

    def __init__(self, name: str, model: DenseClipSegmenter, stats: ImageStats) -> None:
        class_prompts = ClassPrompts(model.classes, tuple((one.strip(),) for one in model.classes))
        shapes = model.shapes
        stride = shapes.cell << (3 - model.backbone.score_level) if shapes.is_vit else 32
        super().__init__(name, model, class_prompts, stats, stride=stride)

    @classmethod
    def of(cls, name: str, saved: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Self:
        """Rebuild from a checkpoint's content, see `contents_of`; every weight has to be there."""
        contents = saved["contents"]
        config = replace(DenseClipConfig.from_dict(contents["config"]), timm_pretrained=False)
        model = build_denseclip(config, Shapes.from_dict(contents["shapes"]), contents["classes"])
        restore(model, saved, name)
        stats = {part: tuple(values) for part, values in contents["stats"].items()}
        return cls(name, model, ImageStats(**stats)).to(device, dtype)

    @classmethod
    def published(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """A checkpoint of the official code, trained on ADE20K, see `load_official`."""
        return cls(str(path), load_official(path, class_set("ade")), OPENAI_STATS).to(device, dtype)

    @property
    def kind(self) -> str:
        """In a few words, for `describe`."""
        config = self.model.config
        kind = f"DenseCLIP, {config.prompting} prompting" if config.language else "fine-tuned CLIP"
        return f"{kind}, Semantic FPN"

    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Features of images (B, 3, H, W), normalized: `logits` of its own classes; z as `map` and g as `whole`."""
        assert not keys
        encoded = self.model.backbone(images.to(self.model.decode_head.conv_seg.weight))
        features = self.model.guided_features(encoded)
        logits = self.model.decode_head(self.model.neck(features.maps)).float()  # (B, K, H / 4, W / 4)
        local = logits if encoded.dense_feature is None else encoded.dense_feature
        return DenseFeatures(local, whole=encoded.global_feature, logits=logits)

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Logits (B, P, h, w) of the words whose rows (P, K + D) `embed` made."""
        classes = len(self.model.classes)
        if matrix[:, :classes].any():
            assert features.logits is not None
            return features.logits[:, matrix[:, :classes].argmax(dim=1)]
        text = matrix[:, classes:].to(features.map)[None]  # (1, P, D)
        scores, _ = self.model.scores_of(Encoded((), features.whole, features.map), text)
        return scores / self.model.config.tau

    def embed(
        self, class_prompts: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Rows (P, K + D): which of its own classes a word is; or, if one is not, the embeddings of all words.

        Words are put between the learned contexts, never into templates. Raises UserError for other words if they
        must be embedded anew for every picture (pre-model prompting), or if it has no language.
        """
        del templates, cache
        places, model = self.own_places(class_prompts), self.model
        rows = torch.zeros(len(places), len(model.classes) + model.shapes.embed_dim, device=self.device)
        if None not in places:
            rows[torch.arange(len(places)), torch.tensor(places)] = 1
        else:
            rows[:, len(model.classes) :] = self._embedded(class_prompts)
        return ClassEmbeddings(
            rows, torch.tensor(class_prompts.class_of_prompt, device=self.device), class_prompts.classes
        )

    def network(
        self, class_prompts: ClassPrompts | None, templates: Sequence[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Normalized images (B, 3, H, W) to logits (B, K, h, w) as one module, and its K class names."""
        del templates
        if class_prompts is None:
            return freeze_text(self.model), self.model.classes
        if len(class_prompts.words) != len(class_prompts.classes):
            raise UserError("a network has one word a class; leave out the synonyms")
        return freeze_text(self.model, _bare(class_prompts)), class_prompts.classes

    @torch.no_grad()
    def _embedded(self, class_prompts: ClassPrompts) -> Tensor:
        words = self.model.words_for(_bare(class_prompts))
        if self.model.config.prompting == "pre":
            raise UserError(
                f"{self.name} makes its words anew for every picture (pre-model prompting); "
                f"use its own classes: {', '.join(self.model.classes[:5])}, ..."
            )
        return words.embeddings(self.model.text_encoder, self.model.contexts)[0].float()  # (P, D)


def _bare(class_prompts: ClassPrompts) -> list[str]:
    return [word.removeprefix(LITERAL) for word in class_prompts.words]


def load_trained(
    path: str | Path, device: torch.device, dtype: torch.dtype
) -> TrainedStudent | TrainedDenseClip:
    """The trained model in a file, see `trained_kind`, ready for a Segmenter.

    Models of the official code have the classes of the benchmark with as many of them. Raises UserError if it cannot
    be read or rebuilt.
    """

    kind = trained_kind(path)
    if kind in DETECTORS:
        raise UserError(f"{path} is a detector; give a model that segments")
    if kind == "maskclip+":
        return TrainedStudent.published(Path(path), device, dtype)
    if kind == "denseclip":
        return TrainedDenseClip.published(Path(path), device, dtype)
    saved = read_saved(path)
    maker = TrainedDenseClip if saved["system"] == "denseclip" else TrainedStudent
    return maker.of(str(path), saved, device, dtype)
