"""One guided and one self-training step equal to the official ones; phases and what they ask for."""

import numpy as np
import pytest
import torch

from clip_support import load_openai_checkpoint
from denseclip.errors import UserError
from denseclip.models.backbones import Backbone
from denseclip.models.student import Student, StudentConfig
from denseclip.segment.attention import DenseEncoder
from denseclip.segment.settings import Compat
from denseclip.text import ClassEmbeddings
from denseclip.train.pseudo_labels import (
    LabelRule,
    LabelSchedule,
    PseudoLabeler,
    PseudoLabelInputs,
    segmentation_sums,
)
from fixtures_support import cases
from models_support import load_official, tensor

PHASES = {"guided": 1, "selftrain": 2}  # the step of each


class Given(Backbone):
    """A backbone whose map is its input: the cases start behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels, self.reductions = (channels,), (8,)

    def forward(self, images):
        return [images]


class Case:
    """A student with a case's weights, its teacher's evidence, and labeler."""

    def __init__(self, path) -> None:
        self.stored = np.load(path)
        text = tensor(self.stored, "text")
        background = "bg_raw" in self.stored.files
        names = tuple(f"class {i}" for i in range(len(text)))
        words = ClassEmbeddings(text, torch.arange(len(text)), names)
        config = StudentConfig(text.shape[1], "given", background=background)
        self.x, self.gt = tensor(self.stored, "x"), tensor(self.stored, "gt")[:, 0]
        self.student = Student(config, Given(self.x.shape[1]), words).train()
        load_official(self.student.decode_module, self.stored, "decode_module.")
        if background:
            self.student.bg_embeddings.data = tensor(self.stored, "bg_raw")
        candidates = tuple(self.stored["unlabeled"].tolist())
        self.labeler = PseudoLabeler(
            LabelSchedule((1, 1), (2, None)), LabelRule(candidates), LabelRule(candidates, False)
        )

    def teacher(self):
        arch = {"type": "rn", "layers": [1, 1, 1, 1], "width": 16, "out": self.stored["text"].shape[1]}
        clip = load_openai_checkpoint(arch, int(self.stored["seed"]))
        dense = DenseEncoder(clip, compat=Compat.named("official")).encode(tensor(self.stored, "img"))
        return PseudoLabelInputs(dense.map, self.student.words())


@pytest.mark.fixtures
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("path", cases("maskclip", "train_step_*.npz"), ids=lambda p: p.stem)
def test_official_step(path, phase):
    case, stored = Case(path), np.load(path)
    student = case.student
    features = student.features(case.x)
    logits = student.classify(features)
    labels = case.labeler.labels(
        PHASES[phase],
        case.gt,
        teacher=case.teacher,
        student=lambda: PseudoLabelInputs(features, student.words()),
    )
    sums = segmentation_sums(logits, labels)
    sums.mean().backward()

    def same(value, name, rtol=1e-4):
        np.testing.assert_allclose(value.detach().numpy(), stored[f"{phase}/{name}"], rtol=rtol, atol=1e-4)

    assert (labels.numpy() == stored[f"{phase}/label"][:, 0]).mean() >= 0.999
    same(logits, "logits")
    same(sums.mean(), "loss")
    same(sums.mean("valid"), "loss_mean_over_valid_NOT_official")
    same(sums.accuracy, "acc_seg", rtol=1e-3)
    same(student.decode_module.aspp_modules[0].conv.weight.grad.norm(), "grad_aspp0_norm")
    if student.bg_embeddings is not None:
        np.testing.assert_allclose(
            student.bg_embeddings.grad, stored[f"{phase}/grad_bg"], rtol=1e-3, atol=1e-6
        )


@pytest.mark.parametrize(
    ("step", "phase"), [(1, "guided"), (9, "guided"), (10, "self-training"), (10**6, "self-training")]
)
def test_phases_count_from_one_and_include_their_ends(step, phase):
    assert LabelSchedule((1, 9), (10, None)).at(step) == phase


def test_steps_without_a_phase():
    phases = LabelSchedule((3, 5))
    assert [phases.at(step) for step in (2, 3, 5, 6)] == [None, "guided", "guided", None]
    assert LabelSchedule(None, None).at(1) is None


@pytest.mark.parametrize("spans", [((1, None), (5, None)), ((1, 5), (5, None)), ((4, 9), (1, 4))])
def test_phases_must_not_overlap(spans):
    with pytest.raises(UserError, match="overlap; end one before the other starts"):
        LabelSchedule(*spans)


@pytest.mark.parametrize("span", [(0, 5), (5, 4)])
def test_empty_phases(span):
    with pytest.raises(UserError, match="is empty; give first and last step, counted from 1"):
        LabelSchedule(span)


def evidence(best):
    """Features in which one of two orthogonal words wins everywhere."""
    words = ClassEmbeddings(torch.eye(3), torch.arange(3), ("a", "b", "c"))
    return PseudoLabelInputs(torch.eye(3)[best].view(1, 3, 1, 1).expand(1, 3, 2, 2), words)


def test_each_phase_asks_only_its_own_labeler():
    def never():
        raise AssertionError("asked for nothing")

    labeler = PseudoLabeler(
        LabelSchedule((1, 2), (3, 4)), LabelRule((1, 2)), LabelRule((1, 2), normalize=False)
    )
    gt = torch.tensor([[[-1, 0], [255, -1]]], dtype=torch.int16)
    guided = labeler.labels(2, gt, teacher=lambda: evidence(1), student=never)
    own = labeler.labels(3, gt, teacher=never, student=lambda: evidence(2))
    nobody = labeler.labels(5, gt, teacher=never, student=never)
    assert guided.tolist() == [[[1, 0], [255, 1]]]
    assert own.tolist() == [[[2, 0], [255, 2]]]
    assert nobody.tolist() == [[[255, 0], [255, 255]]] and nobody.dtype == torch.int64
    shown = labeler.labels(1, gt.clamp(min=0), teacher=never, student=never)
    assert shown.tolist() == [[[0, 0], [255, 0]]]


def test_hidden_classes_must_not_be_shown():
    labeler = PseudoLabeler(LabelSchedule(), LabelRule((1, 2)), LabelRule((1, 2)))
    gt = torch.tensor([[[-1, 1]]])
    with pytest.raises(AssertionError, match="hidden classes are in the labels"):
        labeler.labels(1, gt, teacher=lambda: evidence(1), student=lambda: evidence(1))
