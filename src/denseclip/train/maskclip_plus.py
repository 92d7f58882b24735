"""MaskCLIP+: a student learns from a training-free teacher, then from itself (maskclip section d)."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from denseclip.clip import ImageStats, load_clip
from denseclip.clip.model import ResNet
from denseclip.data.augment import Augmentation
from denseclip.data.datasets import SegmentationDataset
from denseclip.data.labels import IGNORE
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from denseclip.errors import UserError
from denseclip.models.student import Student, StudentConfig, build_student
from denseclip.segment.settings import Refinement
from denseclip.train.drift import watch
from denseclip.train.losses import SegmentationSums, feature_distillation, segmentation_sums
from denseclip.train.panels import draw_panel
from denseclip.train.phases import Labeller, Phases
from denseclip.train.pseudo_labels import Evidence, LabelRule, select
from denseclip.train.recipe import TrainRecipe
from denseclip.train.samples import Batch, Share, TrainingBatches, normalised
from denseclip.train.task import Task
from denseclip.train.teacher import Teacher

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
        things = tuple(k for k in range(len(spec.classes)) if k != spec.background)
        self.hidden = {"all": things, "unseen": spec.unseen, "none": ()}[labels.hide]
        self.labeller = Labeller(
            Phases(labels.guided, labels.self_training),
            guided=_rule(recipe, self.hidden or (0,), guided=True, temperature=teacher.temperature),
            own=_rule(recipe, self.hidden or (0,), guided=False, temperature=recipe.student.temperature),
        )

    def phase(self, step: int) -> str:
        """Guided, self-training, or labels only."""
        return (self.labeller.phases.at(step) if self.hidden else None) or "labels only"

    def forward(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Losses of a step, and `accuracy`: percent of all pixels, see `SegmentationSums.accuracy`."""
        features = self.model.features(normalised(batch, STATS))  # (B, D, h, w)
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
        if self.recipe.teacher.cache and self.phase(step) == "guided" and (batch.labels < 0).any():
            candidates = torch.tensor(self.hidden, device=batch.labels.device)
            return torch.where(batch.labels < 0, self.teacher.kept_labels(batch, candidates), batch.labels)
        return self.labeller.labels(
            step,
            batch.labels,
            teacher=lambda: self._teachers_evidence(batch),
            student=lambda: Evidence(features, self.model.words()),
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One group: the published code has no exceptions, not even for biases."""
        return [{"params": [p for p in self.model.parameters() if p.requires_grad]}]

    @torch.no_grad()
    def panel(self, batch: Batch, step: int) -> NDArray[np.uint8] | None:
        """Image, labels that are trained on, prediction: a row for each of the first pictures."""
        self.eval()
        some = batch.first(PANEL)
        features = self.model.features(normalised(some, STATS))
        predicted = self._predicted(features, some)
        return draw_panel(some, self.labels(some, step, features), predicted, self.dataset.spec)

    @torch.no_grad()
    def probe(self, step: int) -> dict[str, float]:
        """Agreement with annotation and teacher on pictures set aside, see `watch`."""
        del step
        if not self.hidden:
            return {}
        batch, believed = self._aside
        predicted = torch.cat(
            [
                self._predicted(self.model.features(normalised(part, STATS)), part)
                for part in batch.split(PANEL)
            ]
        )
        classes = len(self.dataset.spec.classes)
        return watch(predicted, believed, batch.labels < 0, classes, self.hidden)

    def contents(self) -> Mapping[str, Any]:
        """See `TrainedStudent.of`."""
        words, spec = self.model.embeddings, self.dataset.spec
        names = [k for k in range(len(spec.classes)) if spec.classes[k] in words.classes]
        return {
            "config": self.model.config.to_dict(),
            "classes": list(words.classes),
            "prompts": [list(spec.prompts[k]) for k in names],
            "matrix": words.matrix.cpu(),
            "owner": words.owner.cpu(),
            "text": self.teacher.source,
        }

    def _teachers_evidence(self, batch: Batch) -> Evidence:
        dense = self.teacher.features(batch, unit=self.recipe.labels.order == "official")
        return Evidence(dense.map, self.teacher.embeddings, dense.keys)

    def _mean(self, sums: SegmentationSums) -> Tensor:
        """The loss; over processes, "valid" divides by the labels of all of them."""
        if self.recipe.labels.average == "official" or not dist.is_initialized():
            return sums.mean(self.recipe.labels.average)
        labelled = sums.labelled.clone()
        dist.all_reduce(labelled)
        return sums.loss * dist.get_world_size() / labelled.clamp(min=1)

    def _predicted(self, features: Tensor, batch: Batch) -> Tensor:
        """Best class of every pixel, (B, S, T) int64."""
        size = (batch.labels.shape[1], batch.labels.shape[2])
        logits = self.model.classify(features).float()
        return torch.stack(
            [torch.nn.functional.interpolate(one[None], size, mode="bilinear")[0].argmax(0) for one in logits]
        )

    @cached_property
    def _aside(self) -> tuple[Batch, Tensor]:
        """Views of training images that are always the same, and what is believed of them."""
        recipe = self.recipe
        plain = recipe.augment.build(self.dataset.spec.resize)
        still = Augmentation(plain.resize, (1.0, 1.0), plain.crop, 1.0, 0.0, colours=False)
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
        guided = Labeller(Phases((1, None)), self.labeller.guided, self.labeller.own)
        labels = []
        for part in batch.split(PANEL):
            evidence = self._teachers_evidence(part)
            labels.append(guided.labels(1, part.labels, teacher=lambda: evidence, student=_nobody))  # noqa: B023
        believed = torch.cat(labels)
        return batch, believed


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
        normalise=part.normalise,
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
        normalise=guided or recipe.student.normalise,
        refine=Refinement.parse(teacher.refine, teacher.ks_norm) if guided else Refinement(),
        order=labels.order,
        confidence=labels.confidence,
        temperature=temperature,
        official=teacher.official and not labels.confidence,  # the quirk would unlabel labelled pixels too
    )


def _nobody() -> Evidence:
    raise AssertionError("only the teacher labels what is set aside")
