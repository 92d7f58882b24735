"""MaskCLIP+: a teacher that labels, a student that learns (maskclip sections b to d)."""

import copy
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats, load_clip
from denseclip.clip.device import pick_precision
from denseclip.clip.towers import ResNet
from denseclip.data.datasets import IGNORE, SegmentationDataset
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from denseclip.errors import UserError
from denseclip.loading import make_settings, set_dataset_classes
from denseclip.models.student import Student, StudentConfig, build_student
from denseclip.segment.attention import DenseEncoder, DenseFeatures
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import Refinement
from denseclip.text import EmbeddingCache
from denseclip.train.batches import Batch, Share, TrainingBatches, normalized
from denseclip.train.loop import watch
from denseclip.train.pseudo_labels import (
    LabelRule,
    LabelSchedule,
    PseudoLabeler,
    PseudoLabelInputs,
    SegmentationSums,
    feature_distillation,
    segmentation_sums,
    select,
)
from denseclip.train.recipe import TeacherPart, TrainRecipe
from denseclip.train.task import Task, draw_panel

CHUNK = 1 << 24  # scores at crop size held together


class Teacher:
    """A CLIP made dense, with the words of a data set. Nothing in it is trained."""

    def __init__(
        self, part: TeacherPart, dataset: SegmentationDataset, device: torch.device, precision: str = "auto"
    ) -> None:
        """precision: see `pick_precision`. Raises UserError for a model that cannot be loaded, see `load_clip`."""
        settings = make_settings(
            part.preset,
            refine=part.refine,
            ks_norm=part.ks_norm,
            compat="official" if part.official else None,
            resize=dataset.spec.resize,
            background=part.background,
        )
        self.whole = load_clip(part.model, device=device)
        clip = copy.deepcopy(self.whole).folded().to(dtype=pick_precision(precision, device).dtype)
        self.encoder = DenseEncoder(clip, settings.dense, settings.compat)
        self.segmenter = Segmenter(clip, settings=settings, cache=EmbeddingCache())
        set_dataset_classes(self.segmenter, dataset.spec)
        self.stats, self.embeddings = self.encoder.stats, self.segmenter.embeddings
        self.refine = settings.refine
        self.temperature = 100.0 if part.official else clip.logit_scale
        self.dataset = dataset
        self._kept: dict[int, Tensor] = {}

    @property
    def source(self) -> dict[str, str]:
        """Which CLIP it is, for a checkpoint: as it was named, and a hash of its weights."""
        clip = self.segmenter.clip
        path = Path(clip.name)
        return {
            "clip": str(path.resolve()) if path.exists() else clip.name,
            "fingerprint": clip.fingerprint,
        }

    @torch.inference_mode()
    def features(self, batch: Batch, *, unit: bool = True) -> DenseFeatures:
        """Dense features of the crops, of norm 1 or as the tower made them."""
        images = normalized(batch, self.stats)
        return self.encoder.encode(images, keys=self.refine.ks > 0, unit=unit)

    @torch.inference_mode()
    def kept_labels(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Labels (B, S, T) from scores of the whole images, made once for each and cut like the crops.

        candidates: (K',) int64, the classes to choose from, which alone compete in the refinement too.
        """
        size = (batch.labels.shape[1], batch.labels.shape[2])
        labels = [
            _cut_argmax(self._scores(index, candidates), geometry, extent, size)
            for index, geometry, extent in zip(
                batch.index.tolist(), batch.geometry.tolist(), batch.extent.tolist(), strict=True
            )
        ]
        return candidates[torch.stack(labels)]

    def _scores(self, index: int, candidates: Tensor) -> Tensor:
        """Refined scores (K', h, w) of a whole image, in half precision."""
        if index not in self._kept:
            image = self.dataset[index].image
            encoded = self.segmenter.encode(image)
            dense = encoded.features[0]
            scores = self.segmenter.encoder.scores(dense, self.embeddings.matrix)
            scores = self.embeddings.max_over_prompts(scores)[:, candidates]  # (1, K', h, w)
            if self.refine.pd:
                scores = prompt_denoising(scores, self.refine.pd, temperature=self.temperature)
            if self.refine.ks:
                assert dense.keys is not None
                scores = key_smoothing(
                    scores,
                    dense.keys,
                    self.refine.ks,
                    norm=self.refine.ks_norm,
                    temperature=self.temperature,
                )
            self._kept[index] = scores[0].half()
        return self._kept[index].float()


def _cut_argmax(scores: Tensor, geometry: list[int], extent: list[int], size: tuple[int, int]) -> Tensor:
    """Best of the scores (K, h, w) of a whole image at every pixel of a crop of it, (S, T) int64.

    Bilinear as `F.interpolate(scores, frame)`, of which only the crop's pixels are computed; padding gets the
    values at the edge.
    """
    height, width, top, left, mirrored = geometry
    rows = (torch.arange(size[0], device=scores.device) + top + 0.5) * 2 / height - 1  # (S,)
    columns = torch.arange(size[1], device=scores.device)
    if mirrored:
        columns = extent[1] - 1 - columns
    columns = (columns + left + 0.5) * 2 / width - 1  # (T,)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)[None]  # (1, S, T, 2): x, y
    best = scores.new_full(size, float("-inf"))
    label = torch.zeros(size, dtype=torch.int64, device=scores.device)
    step = max(1, CHUNK // (size[0] * size[1]))
    for start in range(0, len(scores), step):
        some = scores[None, start : start + step]
        values = F.grid_sample(some, grid, "bilinear", "border", align_corners=False)[0]  # (k, S, T)
        top_value, which = values.max(0)
        better = top_value > best
        best = torch.where(better, top_value, best)
        label = torch.where(better, which + start, label)
    return label


STATS = ImageStats(IMAGENET_MEAN, IMAGENET_STD)
ASIDE = 16  # pictures that probes look at
PANEL = 4  # pictures on a panel


class MaskClipPlus(Task):
    """A student under the guidance of a teacher, of itself, or of annotation alone."""

    model: Student

    def __init__(
        self, student: Student, teacher: Teacher, recipe: TrainRecipe, dataset: SegmentationDataset
    ) -> None:
        super().__init__()
        self.model = student
        self.teacher, self.recipe, self.dataset = teacher, recipe, dataset
        labels, spec = recipe.labels, dataset.spec
        found = recipe.teacher.background is not None  # else nobody can label the background
        things = tuple(k for k in range(len(spec.classes)) if found or k != spec.background)
        self.hidden = {"all": things, "unseen": spec.unseen, "none": ()}[labels.hide]
        self.labeler = PseudoLabeler(
            LabelSchedule(labels.guided, labels.self_training),
            guided=_rule(recipe, self.hidden or (0,), guided=True, temperature=teacher.temperature),
            own=_rule(recipe, self.hidden or (0,), guided=False, temperature=recipe.student.temperature),
        )

    def phase(self, step: int) -> str:
        """Guided, self-training, or labels only."""
        return (self.labeler.phases.at(step) if self.hidden else None) or "labels only"

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Losses of a step, and `accuracy`: percent of all pixels, see `SegmentationSums.accuracy`."""
        features = self.model.features(normalized(batch, STATS))  # (B, D, h, w)
        logits = self.model.classify(features)  # (B, K, h, w)
        labels = self.labels(batch, step, features.detach())
        sums = segmentation_sums(logits, labels)
        values = {"loss": self._mean(sums), "accuracy": sums.accuracy}
        weight = self.recipe.labels.distillation
        if weight:
            theirs = self.teacher.features(batch).map.clone()  # (B, D, h', w')
            values["distillation"] = feature_distillation(features, theirs, batch.labels)
            values["loss"] = values["loss"] + weight * values["distillation"]
        return values

    def labels(self, batch: Batch, step: int, features: Tensor) -> Tensor:
        """What the loss of step `step` sees, (B, S, T) int64, 255 ignored; features: the student's."""
        if not self.hidden:
            return batch.labels
        if self.recipe.teacher.cache and self.phase(step) == "guided":
            candidates = torch.tensor(self.hidden, device=batch.labels.device)
            return torch.where(batch.labels < 0, self.teacher.kept_labels(batch, candidates), batch.labels)
        return self.labeler.labels(
            step,
            batch.labels,
            teacher=lambda: self._teachers_evidence(batch),
            student=lambda: PseudoLabelInputs(features, self.model.words()),
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: the published code has no exceptions, not even for biases."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    @torch.no_grad()
    def visualize(self, batch: Batch, step: int) -> NDArray[np.uint8] | None:
        """Image, labels that are trained on, prediction: a row for each of the first pictures."""
        self.eval()
        some = batch.first(PANEL)
        features = self.model.features(normalized(some, STATS))
        predicted = self._predicted(features, some)
        return draw_panel(some, self.labels(some, step, features), predicted, self.dataset.spec)

    @torch.no_grad()
    def probe(self, step: int) -> dict[str, float]:
        """Agreement with annotation and teacher on pictures held out, see `watch`."""
        del step
        if not self.hidden:
            return {}
        batch, reference = self._holdout
        predicted = torch.cat(
            [
                self._predicted(self.model.features(normalized(part, STATS)), part)
                for part in batch.split(PANEL)
            ]
        )
        classes = len(self.dataset.spec.classes)
        return watch(predicted, reference, batch.labels < 0, classes, self.hidden)

    def metadata(self) -> Mapping[str, Any]:
        """See `TrainedStudent.of`."""
        words, spec = self.model.embeddings, self.dataset.spec
        names = [k for k in range(len(spec.classes)) if spec.classes[k] in words.classes]
        return {
            "config": self.model.config.to_dict(),
            "classes": list(words.classes),
            "prompts": [list(spec.prompts[k]) for k in names],
            "matrix": words.matrix.cpu(),
            "owner": words.class_of_prompt.cpu(),
            "text": self.teacher.source,
        }

    def _teachers_evidence(self, batch: Batch) -> PseudoLabelInputs:
        dense = self.teacher.features(batch, unit=self.recipe.labels.order == "official")
        return PseudoLabelInputs(dense.map, self.teacher.embeddings, dense.keys)

    def _mean(self, sums: SegmentationSums) -> Tensor:
        """The loss; over processes, "valid" divides by the labels of all of them."""
        if self.recipe.labels.average == "official" or not dist.is_initialized():
            return sums.mean(self.recipe.labels.average)
        labeled = sums.labeled.clone()
        dist.all_reduce(labeled)
        return sums.loss * dist.get_world_size() / labeled.clamp(min=1)

    def _predicted(self, features: Tensor, batch: Batch) -> Tensor:
        """Best class of every pixel, (B, S, T) int64."""
        size = (batch.labels.shape[1], batch.labels.shape[2])
        logits = self.model.classify(features).float()
        return torch.stack(
            [torch.nn.functional.interpolate(one[None], size, mode="bilinear")[0].argmax(0) for one in logits]
        )

    @cached_property
    def _holdout(self) -> tuple[Batch, Tensor]:
        """Views of training images that are always the same, and their reference labels."""
        recipe = self.recipe
        plain = recipe.augment.build(self.dataset.spec.resize)
        still = Augmentation(plain.resize, (1.0, 1.0), plain.crop, 1.0, 0.0, colors=False)
        count = min(ASIDE, len(self.dataset))
        made = TrainingBatches(
            self.dataset,
            still,
            Share(count),
            first=0,
            steps=1,
            seed=recipe.seed + 1,
            hidden=self.hidden,
            everywhere=recipe.labels.ignore_mask == "none",
            skip_bad=recipe.data.classes is not None,
        )
        batch = made.batch(0).to(self.model.device)
        guided = PseudoLabeler(LabelSchedule((1, None)), self.labeler.guided, self.labeler.own)
        labels = []
        for part in batch.split(PANEL):
            evidence = self._teachers_evidence(part)
            labels.append(guided.labels(1, part.labels, teacher=lambda: evidence, student=_nobody))  # noqa: B023
        reference = torch.cat(labels)
        return batch, reference


def build_maskclip_plus(
    recipe: TrainRecipe, dataset: SegmentationDataset, device: torch.device
) -> MaskClipPlus:
    """Student and teacher of a recipe, with the words of a data set; weights depend on torch's seed.

    Raises UserError for names that are unknown, weights that are not there, and parts that do not fit.
    """
    part, spec = recipe.student, dataset.spec
    if len(spec.classes) > IGNORE:
        raise UserError(
            f"{spec.name} has {len(spec.classes)} classes; MaskCLIP+ learns at most {IGNORE}: take fewer"
        )
    if recipe.labels.hide == "unseen" and not spec.unseen:
        raise UserError(f'{spec.name} has no unseen classes; take hide = "all" or another data set')
    if part.background and spec.background != 0:
        raise UserError(f"{spec.name} has no background class; set student.background = false")
    teacher = Teacher(recipe.teacher, dataset, device, recipe.precision)
    words = teacher.embeddings
    if part.background:
        words = select(words, range(1, len(words.classes)))
    config = StudentConfig(
        dim=words.matrix.shape[1],
        backbone="clip" if part.from_clip else part.backbone,
        head=part.head,
        output_stride=part.output_stride,
        background=part.background,
        normalize=part.normalize,
        temperature=part.temperature,
        classifier=part.classifier,
    )
    tower = _tower(recipe, teacher) if part.from_clip else None
    student = build_student(config, words, pretrained=part.pretrained, tower=tower).to(device)
    return MaskClipPlus(student, teacher, recipe, dataset)


def _tower(recipe: TrainRecipe, teacher: Teacher) -> ResNet:
    """Where the student's backbone starts from; UserError if it is a ViT."""
    name = recipe.clips[-1]
    clip = teacher.whole if name == recipe.teacher.model else load_clip(name)
    if not isinstance(clip.visual, ResNet):
        raise UserError(f"{name} is a ViT; student.backbone = clip needs a CLIP with a ResNet")
    return clip.visual


def _rule(recipe: TrainRecipe, hidden: tuple[int, ...], *, guided: bool, temperature: float) -> LabelRule:
    labels, teacher = recipe.labels, recipe.teacher
    return LabelRule(
        candidates=hidden,
        normalize=guided or recipe.student.normalize,
        refine=Refinement.parse(teacher.refine, teacher.ks_norm) if guided else Refinement(),
        order=labels.order,
        confidence=labels.confidence,
        temperature=temperature,
        official=teacher.official and not labels.confidence,  # the quirk would unlabel labeled pixels too
    )


def _nobody() -> PseudoLabelInputs:
    raise AssertionError("only the teacher labels what is held out")
