"""A trained DenseCLIP as a model behind a Segmenter."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from denseclip.clip import ImageStats
from denseclip.clip.clip import OPENAI_STATS
from denseclip.errors import UserError
from denseclip.nets.denseclip.baked import baked
from denseclip.nets.denseclip.build import build_denseclip
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.encoders import Encoded
from denseclip.nets.denseclip.official import load_official
from denseclip.nets.denseclip.segmenter import DenseClipSegmenter
from denseclip.nets.denseclip.shapes import Shapes, VitShape
from denseclip.nets.saved import fingerprint_of, restore
from denseclip.segment.attention import DenseFeatures
from denseclip.text import ClassEmbeddings, ClassPrompts, EmbeddingCache, class_set
from denseclip.text.prompts import LITERAL, key


def contents_of(model: DenseClipSegmenter, stats: ImageStats) -> dict[str, Any]:
    """What a checkpoint needs beside the weights. stats: how its pictures were normalised."""
    return {
        "config": model.config.to_dict(),
        "shapes": model.shapes.to_dict(),
        "classes": list(model.classes),
        "stats": asdict(stats),
    }


class TrainedDenseClip:
    """A DenseCLIP: its own classes by its head, other words by its score map alone."""

    logit_scale = 1.0  # of its logits

    def __init__(self, name: str, model: DenseClipSegmenter, stats: ImageStats) -> None:
        self.name, self.model, self.stats = name, model.eval(), stats
        self.ontology = ClassPrompts(model.classes, tuple((one.strip(),) for one in model.classes))

    @classmethod
    def of(cls, name: str, saved: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> Self:
        """Rebuild from a checkpoint's content, see `contents_of`; every weight has to be there."""
        contents = saved["contents"]
        config = replace(DenseClipConfig.from_dict(contents["config"]), timm_pretrained=False)
        model = build_denseclip(config, Shapes.from_dict(contents["shapes"]), contents["classes"])
        restore(model, saved, name)
        model.requires_grad_(False).to(device, dtype)
        stats = {part: tuple(values) for part, values in contents["stats"].items()}
        return cls(name, model, ImageStats(**stats))

    @classmethod
    def published(cls, path: Path, device: torch.device, dtype: torch.dtype) -> Self:
        """A checkpoint of the official code, trained on ADE20K, see `load_official`."""
        model = load_official(path, class_set("ade")).requires_grad_(False).to(device, dtype)
        return cls(str(path), model, OPENAI_STATS)

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over all weights."""
        return fingerprint_of(self.model.state_dict())

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.decode_head.conv_seg.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.model.decode_head.conv_seg.weight.dtype

    def describe(self) -> str:
        """One line, the name first."""
        config = self.model.config
        kind = f"DenseCLIP, {config.prompting} prompting" if config.language else "fine-tuned CLIP"
        millions = sum(p.numel() for p in self.model.parameters()) / 1e6
        return (
            f"{self.name}: {kind}, Semantic FPN, {len(self.model.classes)} classes, {millions:.1f} M parameters, "
            f"{str(self.dtype).removeprefix('torch.')} on {self.device}"
        )

    def encoder(self) -> "DenseClipEncoder":
        """Its image side."""
        return DenseClipEncoder(self.model, self.stats)

    def embed(
        self, ontology: ClassPrompts, templates: Sequence[str], cache: EmbeddingCache | None
    ) -> ClassEmbeddings:
        """Rows (P, K + D): which of its own classes a word is; or, if one is not, the embeddings of all words.

        Words are put between the learned contexts, never into templates. Raises UserError for other words if they
        must be embedded anew for every picture (pre-model prompting), or if it has no language.
        """
        del templates, cache
        own, model = {key(name): k for k, name in enumerate(self.model.classes)}, self.model
        places = [own.get(key(word)) for word in ontology.words]
        rows = torch.zeros(len(places), len(model.classes) + model.shapes.embed_dim, device=self.device)
        if None not in places:
            rows[torch.arange(len(places)), torch.tensor(places)] = 1
        else:
            rows[:, len(model.classes) :] = self._embedded(ontology)
        return ClassEmbeddings(rows, torch.tensor(ontology.owner, device=self.device), ontology.classes)

    def network(
        self, ontology: ClassPrompts | None, templates: Sequence[str]
    ) -> tuple[nn.Module, tuple[str, ...]]:
        """Normalised images (B, 3, H, W) to logits (B, K, h, w) as one module, and its K class names."""
        del templates
        if ontology is None:
            return baked(self.model), self.model.classes
        if len(ontology.words) != len(ontology.classes):
            raise UserError("a network has one word a class; leave out the synonyms")
        return baked(self.model, _bare(ontology)), ontology.classes

    @torch.no_grad()
    def _embedded(self, ontology: ClassPrompts) -> Tensor:
        words = self.model.words_for(_bare(ontology))
        if self.model.config.prompting == "pre":
            raise UserError(
                f"{self.name} makes its words anew for every picture (pre-model prompting); "
                f"use its own classes: {', '.join(self.model.classes[:5])}, ..."
            )
        return words.embeddings(self.model.text_encoder, self.model.contexts)[0].float()  # (P, D)


class DenseClipEncoder:
    """The image side: `logits` of its own classes; with language `map` holds the cells z and `whole` g."""

    def __init__(self, model: DenseClipSegmenter, stats: ImageStats) -> None:
        self.model, self.stats = model, stats
        shape = model.shapes.backbone
        self.stride = shape.patch << (3 - model.backbone.score_level) if isinstance(shape, VitShape) else 32

    @torch.inference_mode()
    def encode(self, images: Tensor, *, keys: bool = False) -> DenseFeatures:
        """Images (B, 3, H, W), normalised -> features for `scores`."""
        assert not keys
        encoded = self.model.backbone(images.to(self.model.decode_head.conv_seg.weight))
        guidance = self.model.guided(encoded)
        logits = self.model.decode_head(self.model.neck(guidance.maps)).float()  # (B, K, H / 4, W / 4)
        local = logits if encoded.dense_feature is None else encoded.dense_feature
        return DenseFeatures(local, whole=encoded.global_feature, logits=logits)

    @torch.inference_mode()
    def scores(self, features: DenseFeatures, matrix: Tensor) -> Tensor:
        """Logits (B, P, h, w) of the words whose rows (P, K + D) `TrainedDenseClip.embed` made."""
        classes = len(self.model.classes)
        if matrix[:, :classes].any():
            assert features.logits is not None
            return features.logits[:, matrix[:, :classes].argmax(dim=1)]
        text = matrix[:, classes:].to(features.map)[None]  # (1, P, D)
        scores, _ = self.model.scores_of(Encoded((), features.whole, features.map), text)
        return scores / self.model.config.tau


def _bare(ontology: ClassPrompts) -> list[str]:
    return [word.removeprefix(LITERAL) for word in ontology.words]
