"""Pseudo labels, in which steps whose labels are taken, and the losses that learn from them.

Losses are at label size, one picture at a time: the upsampled scores of a batch are never held together.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.data.datasets import IGNORE, UNLABELED
from denseclip.errors import UserError
from denseclip.segment.decode import Confidence, decode
from denseclip.segment.refine import key_smoothing, prompt_denoising
from denseclip.segment.settings import Refinement
from denseclip.text import ClassEmbeddings

Order = Literal["official", "v1"]


@dataclass(frozen=True)
class PseudoLabelInputs:
    """What pixels are labeled by: features (B, D, h, w), words of the same space, keys (B, hw, E) for smoothing."""

    features: Tensor
    words: ClassEmbeddings
    keys: Tensor | None = None


@dataclass(frozen=True)
class LabelRule:
    """How unlabeled pixels get their label.

    candidates: class ids to choose from; among equals the first wins. normalize: divide features by their norm
    first (a teacher's always, a student's if it was built so). refine: prompt denoising and key smoothing, over
    the candidates alone. order: "official" normalizes, matches, upsamples; "v1", of the first code, upsamples,
    normalizes, matches, and needs the features as the encoder made them. confidence: a probability in 0..1 below
    which a pixel stays unlabeled; 0 labels all. temperature: of the soft-max over scores in refinement and
    confidence. official: the official quirks: prompt denoising may remove every candidate, and `confidence` is
    compared with the plain score, at all pixels, so that labeled and ignored ones lose their label too.

    Raises UserError for no candidates, ids that collide with the ignored one, and v1 with anything it never had.
    """

    candidates: tuple[int, ...]
    normalize: bool = True
    refine: Refinement = field(default_factory=Refinement)
    order: Order = "official"
    confidence: float = 0.0
    temperature: float = 100.0
    official: bool = False

    def __post_init__(self) -> None:
        if not self.candidates:
            raise UserError("no class is left to label hidden pixels with; hide at least one")
        if not 0 <= min(self.candidates) <= max(self.candidates) < IGNORE:
            raise UserError(f"class ids from {IGNORE} on are no labels; train with at most {IGNORE} classes")
        if self.order not in get_args(Order):
            raise UserError(f"label order {self.order!r} is unknown; choose official or v1")
        if self.order == "v1" and (self.refine.pd or self.refine.ks or self.confidence):
            raise UserError(
                "label order v1 has no refinement and no confidence; leave them out or take official"
            )


@torch.no_grad()
def assign_labels(gt: Tensor, evidence: PseudoLabelInputs, rule: LabelRule) -> Tensor:
    """Label the pixels that are -1.

    gt: (B, H, W) integers: a class, -1 unlabeled, 255 ignored. Full-size scores of all classes are never held.
    Returns a new (B, H, W) tensor of the same type; -1 remains where `rule.confidence` is not reached.
    """
    assert gt.dim() == 3 and len(gt) == len(evidence.features), (gt.shape, evidence.features.shape)
    labels = gt.clone()
    concerned = torch.arange(len(gt), device=gt.device)  # (N,) pictures
    if not gt.is_cuda:  # a GPU would have to be waited for
        concerned = concerned[(gt < 0).flatten(1).any(1)]
        if len(concerned) == 0:
            return labels
    scores = _scores(evidence, rule, concerned)
    kind = _confidence_kind(rule)
    size = (gt.shape[1], gt.shape[2])
    decoded = decode(scores, size, confidence=kind, temperature=rule.temperature)
    candidates = torch.tensor(rule.candidates, device=gt.device, dtype=gt.dtype)
    old = gt[concerned]  # (N, H, W)
    new = torch.where(old < 0, candidates[decoded.mask.long()], old)
    if decoded.confidence is not None:
        unsure = decoded.confidence < rule.confidence
        new[unsure if rule.official else unsure & (old < 0)] = UNLABELED
    labels[concerned] = new
    return labels


def select(words: ClassEmbeddings, classes: Sequence[int]) -> ClassEmbeddings:
    """The embeddings of some classes, in this order."""
    rows = [(words.class_of_prompt == index).nonzero()[:, 0] for index in classes]  # (p,) each
    owner = torch.repeat_interleave(torch.tensor([len(one) for one in rows])).to(words.class_of_prompt)
    names = tuple(words.classes[i] for i in classes)
    generic = words.generic if classes[0] == 0 else 0
    return ClassEmbeddings(words.matrix[torch.cat(rows)], owner, names, generic, words.lead)


def _scores(evidence: PseudoLabelInputs, rule: LabelRule, pictures: Tensor) -> Tensor:
    """Refined scores (N, candidates, h, w) at map resolution."""
    features = evidence.features[pictures].float()  # (N, D, h, w)
    if (
        rule.normalize and rule.order == "official"
    ):  # in v1 a pixel's norm comes later, when it changes no winner
        features = features / features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    words = select(evidence.words, rule.candidates)
    scores = words.max_over_prompts(F.conv2d(features, words.matrix.to(features)[:, :, None, None]))
    if rule.refine.pd:
        scores = prompt_denoising(
            scores, rule.refine.pd, temperature=rule.temperature, keep_best=not rule.official
        )
    if rule.refine.ks:
        assert evidence.keys is not None, "key smoothing needs keys"
        keys = evidence.keys[pictures]
        scores = key_smoothing(
            scores, keys, rule.refine.ks, norm=rule.refine.ks_norm, temperature=rule.temperature
        )
        if rule.confidence and not rule.official:  # sums over neighbors -> shares
            scores = scores / scores.abs().sum(1, keepdim=True).clamp_min(1e-12)
    return scores


def _confidence_kind(rule: LabelRule) -> Confidence | None:
    if not rule.confidence:
        return None
    return "score" if rule.official or rule.refine.ks else "probability"


Phase = Literal["guided", "self-training"]
Span = tuple[int, int | None]


@dataclass(frozen=True)
class LabelSchedule:
    """First and last step of guided learning and of self-training, counted from 1; None is "to the end".

    Published zero-shot runs: guided (1, n / 10 - 1), self-training (n / 10, None). Raises UserError for spans that
    are empty or overlap (with which the official code crashes).
    """

    guided: Span | None = (1, None)
    self_training: Span | None = None

    def __post_init__(self) -> None:
        for name, span in (("guided", self.guided), ("self-training", self.self_training)):
            if span is not None and not 1 <= span[0] <= (span[1] or span[0]):
                raise UserError(
                    f"phase {name} {list(span)} is empty; give first and last step, counted from 1"
                )
        if self.guided and self.self_training:
            first, second = sorted((self.guided, self.self_training), key=lambda span: span[0])
            if first[1] is None or first[1] >= second[0]:
                raise UserError(
                    f"phases guided {list(self.guided)} and self-training {list(self.self_training)} overlap; "
                    "end one before the other starts"
                )

    def at(self, step: int) -> Phase | None:
        """The phase of a step, counted from 1 over the whole run, so that resuming changes nothing."""
        if _within(step, self.guided):
            return "guided"
        return "self-training" if _within(step, self.self_training) else None


@dataclass(frozen=True)
class PseudoLabeler:
    """The labels of every step: the teacher's under `guided`, the student's under `own`."""

    phases: LabelSchedule
    guided: LabelRule
    own: LabelRule

    @torch.no_grad()
    def labels(
        self,
        step: int,
        gt: Tensor,
        *,
        teacher: Callable[[], PseudoLabelInputs],
        student: Callable[[], PseudoLabelInputs],
    ) -> Tensor:
        """What the loss of step `step` (from 1) sees.

        gt: (B, H, W) integers: a class that is shown, -1 hidden, 255 ignored. teacher, student: called only if their
        phase is on and a pixel is hidden; the student's evidence is of the forward pass that is trained.
        Returns (B, H, W) int64; pixels that nobody labels are 255. That no hidden class is shown is asserted.
        """
        phase = self.phases.at(step)
        labels = gt.long()
        if phase is not None and (labels.is_cuda or (labels < 0).any()):
            rule = self.guided if phase == "guided" else self.own
            hidden = torch.tensor(rule.candidates, device=gt.device)
            shown = torch.isin(labels, hidden).any()
            assert labels.is_cuda or not shown, "hidden classes are in the labels"
            labels = assign_labels(labels, teacher() if phase == "guided" else student(), rule)
        return labels.masked_fill(labels < 0, IGNORE)


def _within(step: int, span: Span | None) -> bool:
    return span is not None and span[0] <= step and (span[1] is None or step <= span[1])


Average = Literal["official", "valid"]
Where = Literal["not ignored", "unlabeled"]
Cut = tuple[slice, slice]  # pictures, channels

LOSS_CHANNELS = 64  # features upsampled together


class SegmentationSums(NamedTuple):
    """Sums over the pixels of a batch, so that parts of a batch can be added up before they are averaged.

    loss: cross entropy of the labeled pixels, with gradient. labeled, correct: pixels with a label, and those
    whose best class it is. pixels: all, ignored ones too.
    """

    loss: Tensor
    labeled: Tensor
    correct: Tensor
    pixels: int

    def mean(self, average: Average = "official") -> Tensor:
        """The loss: over all pixels ("official", so its size follows the labeled share) or the labeled ones.

        0 without any label. Raises UserError for another average.
        """
        if average not in get_args(Average):
            raise UserError(f"loss average {average!r} is unknown; choose official or valid")
        return self.loss / (self.pixels if average == "official" else self.labeled.clamp(min=1))

    @property
    def accuracy(self) -> Tensor:
        """Percent of all pixels whose best class is their label: the official `acc_seg`; ignored ones are wrong."""
        return 100 * self.correct / self.pixels


def segmentation_sums(logits: Tensor, labels: Tensor) -> SegmentationSums:
    """Cross entropy of logits upsampled bilinearly (align_corners=False) to the labels' size.

    logits: (B, K, h, w), in any float type; the arithmetic is float32. labels: (B, H, W) integers, class or 255.
    """
    assert labels.dim() == 3 and len(labels) == len(logits), (logits.shape, labels.shape)
    labels = labels.long()
    size = (labels.shape[1], labels.shape[2])

    def of_picture(picture: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
        full = F.interpolate(picture, size, mode="bilinear")  # (1, K, H, W)
        loss = F.cross_entropy(full, labels[cut[0]], ignore_index=IGNORE, reduction="sum")
        return loss, (full.detach().argmax(1) == labels[cut[0]]).sum()

    cuts = [(slice(i, i + 1), slice(None)) for i in range(len(logits))]
    loss, correct = _Streamed.apply(logits, cuts, of_picture)
    return SegmentationSums(loss, (labels != IGNORE).sum(), correct, labels.numel())


def feature_distillation(
    student: Tensor, teacher: Tensor, gt: Tensor, *, where: Where = "not ignored"
) -> Tensor:
    """Mean L1 distance of student and teacher features, both upsampled bilinearly to the labels' size.

    student: (B, D, h, w), with gradient; the official code detaches it, and so trains nothing by it. teacher:
    (B, D, h', w') of norm 1. gt: (B, H, W) before pseudo labels. where: pixels that are "not ignored" (not 255)
    or "unlabeled" (-1). Returns the mean over these pixels and all channels, 0 without any.
    """
    assert student.shape[:2] == teacher.shape[:2], (student.shape, teacher.shape)
    used = gt != IGNORE if where == "not ignored" else gt < 0  # (B, H, W)
    size = (gt.shape[1], gt.shape[2])

    def of_channels(channels: Tensor, cut: Cut) -> tuple[Tensor, Tensor]:
        theirs = F.interpolate(teacher[cut].detach().float(), size, mode="bilinear")  # (1, c, H, W)
        distance = (F.interpolate(channels, size, mode="bilinear") - theirs).abs()
        total = (distance * used[cut[0], None]).sum()
        return total, total.new_zeros(())

    cuts = [
        (slice(i, i + 1), slice(first, first + LOSS_CHANNELS))
        for i in range(len(student))
        for first in range(0, student.shape[1], LOSS_CHANNELS)
    ]
    total, _ = _Streamed.apply(student, cuts, of_channels)
    return total / (used.sum().clamp(min=1) * student.shape[1])


class _Streamed(torch.autograd.Function):
    """A sum of terms that each need only one cut of x; each one's gradient is taken as soon as it is computed.

    `terms(x[cut], cut)` gives a term and a count that goes with it, which is added up too.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        cuts: list[Cut],
        terms: Callable[[Tensor, Cut], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(x) if wanted else None
        total, count = (
            x.new_zeros((), dtype=torch.float32),
            torch.zeros((), dtype=torch.int64, device=x.device),
        )
        for cut in cuts:
            with torch.set_grad_enabled(wanted), torch.autocast(x.device.type, enabled=False):
                part = x[cut].detach().to(torch.promote_types(x.dtype, torch.float32)).requires_grad_(wanted)
                term, more = terms(part, cut)
            if gradient is not None:
                gradient[cut] = torch.autograd.grad(term, part)[0].to(x.dtype)
            total, count = total + term.detach(), count + more.to(count.dtype)
        ctx.save_for_backward(gradient)
        ctx.mark_non_differentiable(count)
        return total, count

    @staticmethod
    def backward(ctx: Any, outer: Tensor, _: Tensor) -> tuple[Tensor | None, None, None]:  # noqa: ANN401
        (gradient,) = ctx.saved_tensors
        return gradient * outer.to(gradient.dtype), None, None
