"""Trained students as models behind a Segmenter."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip import Clip, ImageStats, load_clip
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from denseclip.errors import UserError
from denseclip.nets.published import load_published
from denseclip.nets.saved import fingerprint_of, restore
from denseclip.nets.student import Student, StudentConfig, build_student
from denseclip.segment.attention import DenseFeatures
from denseclip.text import TEMPLATES_85, ClassEmbeddings, ClassPrompts, EmbeddingCache, embed_classes

OF_LENGTH = {1024: ("RN50",), 512: ("ViT-B-16", "RN101"), 640: ("RN50x4",), 768: ("RN50x16",)}
SAME_WORDS = 0.99  # mean cosine


class TrainedStudent:
    """A MaskCLIP+ student: its own classes from stored vectors, other words from the CLIP it learned from."""

    def __init__(self, name: str, student: Student, ontology: ClassPrompts, text: Mapping[str, str]) -> None:
        """ontology: of all channels, background first if there is one. text: see `Teacher.source`."""
        self.name, self.student, self.ontology, self.text = name, student.eval(), ontology, dict(text)
        self.logit_scale = student.config.temperature

    @classmethod
    def of(cls, name: str, saved: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Self:
        """Rebuild from a checkpoint's content; every weight has to be there."""
        contents = saved["contents"]
        embeddings = ClassEmbeddings(contents["matrix"], contents["owner"], tuple(contents["classes"]))
        student = build_student(StudentConfig.from_dict(contents["config"]), embeddings)
        restore(student, saved, name)
        prompts = tuple(tuple(words) for words in contents["prompts"])
        ontology = ClassPrompts(
            student.classes, (("background",), *prompts) if student.config.background else prompts
        )
        student.requires_grad_(False).to(device, dtype)
        return cls(name, student, ontology, contents["text"])

    @classmethod
    def published(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """A .pth of the official code, see `load_published`."""
        student = load_published(path)
        prompts = tuple((name,) for name in student.classes)
        student.requires_grad_(False).to(device, dtype)
        return cls(str(path), student, ClassPrompts(student.classes, prompts), {})

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all weights, and over the vectors of its own words."""
        return fingerprint_of(self.student.state_dict() | {"matrix": self.student.matrix})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.student.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.student.matrix.dtype

    def describe(self) -> str:
        """One line, the name first."""
        config = self.student.config
        millions = sum(p.numel() for p in self.student.parameters()) / 1e6
        return (
            f"{self.name}: MaskCLIP+ student, {config.backbone}, {config.head}, stride {config.output_stride}, "
            f"{len(self.ontology.classes)} classes, "
            f"{millions:.1f} M parameters, {str(self.dtype).removeprefix('torch.')} on {self.device}"
        )

    def encoder(self) -> "StudentEncoder":
        """Its image side."""
        return StudentEncoder(self.student)

    def embed(
        self, ontology: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Its own words from what it was trained with, others through the text tower of its CLIP."""
        known = dict(zip(self.ontology.words, self._own_rows(), strict=True))
        new = [word for word in ontology.words if word not in known]
        if new:
            flat = ClassPrompts(tuple(new), tuple((word,) for word in new))
            rows = embed_classes(self._clip, flat, templates, cache=cache).matrix.to(self.device, self.dtype)
            if self.student.mapper is not None:
                rows = self.student.mapper(rows)
            known |= zip(new, rows, strict=True)
        matrix = torch.stack([known[word] for word in ontology.words]).float()  # (P, D)
        owner = torch.tensor(ontology.owner, device=self.device)
        return ClassEmbeddings(matrix, owner, ontology.classes)

    @property
    def stats(self) -> ImageStats:
        """How pixels are normalised."""
        return StudentEncoder.stats

    def network(
        self, ontology: ClassPrompts | None, templates: Sequence[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """A network from normalised images (B, 3, H, W) to logits (B, K, h, w), and its K class names.

        ontology: other words than its own.
        """
        if ontology is None:
            return self.student, self.student.classes
        return _Fixed(self.student, self.embed(ontology, templates, None)), ontology.classes

    def _own_rows(self) -> Tensor:
        return self.student.words().matrix  # (P, D), the background first

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
        names = OF_LENGTH.get(self.student.config.dim, ())
        rows = self.student.embeddings.matrix.float()  # (K, D)
        words = ClassPrompts.parse(list(self.student.embeddings.classes))
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
        return self.words.reduce(F.conv2d(self.student.features(images), self.matrix[:, :, None, None]))


class StudentEncoder:
    """The image side of a student."""

    stats = ImageStats(IMAGENET_MEAN, IMAGENET_STD)

    def __init__(self, student: Student) -> None:
        self.student = student
        self.stride = 1  # any size: nothing is rounded to whole cells

    @torch.inference_mode()
    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Images (B, 3, H, W), normalised by `stats` -> features (B, D, h, w), not normalised unless trained so."""
        assert not keys
        weights = self.student.matrix
        return DenseFeatures(self.student.features(images.to(weights)).float())

    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Products (B, P, h, w) of every position with the rows of `matrix` (P, D)."""
        return F.conv2d(features.map, matrix[:, :, None, None])
