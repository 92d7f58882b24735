"""The teacher's kept scores, cut like the crops; and drift."""

import pytest
import torch
import torch.nn.functional as F

from denseclip.train.batches import Share, TrainingBatches
from denseclip.train.loop import check_drift, watch
from denseclip.train.maskclip_plus import Teacher, _cut_argmax
from denseclip.train.training import open_training_data
from train_support import small


@pytest.mark.parametrize("mirrored", [0, 1])
def test_cut_scores_are_those_of_the_resized_map(mirrored):
    scores = torch.randn(5, 6, 7, generator=torch.Generator().manual_seed(1))
    full = F.interpolate(scores[None], (96, 112), mode="bilinear")[0].argmax(0)
    expected = full[20:52, 30:70]
    found = _cut_argmax(scores, [96, 112, 20, 30, mirrored], [32, 40], (32, 40))
    assert torch.equal(found, expected.flip(1) if mirrored else expected)


def test_kept_labels_are_the_teachers():
    """A crop that is the whole picture gets the same labels with and without the cache."""
    recipe = small(
        teacher={"cache": True}, augment={"crop": [64, 64], "ratio": [1, 1], "flip": 0, "colors": False}
    )
    dataset = open_training_data(recipe.data, None)
    teacher = Teacher(recipe.teacher, dataset, torch.device("cpu"))
    made = TrainingBatches(
        dataset,
        recipe.augment.build(dataset.spec.resize),
        Share(3),
        first=0,
        steps=1,
        seed=0,
        everywhere=True,
    )
    batch = made.batch(0)
    candidates = torch.arange(20)
    kept = teacher.kept_labels(batch, candidates)
    scores = torch.einsum("bdhw,pd->bphw", teacher.features(batch).map, teacher.embeddings.matrix)
    direct = F.interpolate(scores, (64, 64), mode="bilinear").argmax(1)
    assert (kept == direct).float().mean() > 0.99  # kept in half precision


def test_watch_and_drift():
    reference = torch.arange(4).repeat_interleave(16).view(1, 8, 8)
    hidden = torch.ones_like(reference, dtype=torch.bool)
    good = watch(reference, reference, hidden, 4, range(4))
    assert good["score"] == pytest.approx(1) and good["classes"] == pytest.approx(4)
    collapsed = watch(torch.zeros_like(reference), reference, hidden, 4, range(4))
    assert collapsed["classes"] == pytest.approx(1)
    assert "1.0 classes" in check_drift(good, collapsed)
    other = reference.flip(2).clone()
    other[:, 4:] = (other[:, 4:] + 1) % 4
    assert "against the teacher" in check_drift(good, watch(other, reference, hidden, 4, range(4)))
    assert check_drift(good, good) is None
    assert "from 0.49 to 0.44" in check_drift(good | {"agreement": 0.49}, good | {"agreement": 0.44})
    assert check_drift(good | {"agreement": 0.49}, good | {"agreement": 0.45}) is None
    guided = watch(
        reference, reference // 2, hidden, 4, (0, 1)
    )  # some labeled classes are seen where there are none
    trained = watch(reference // 2, reference // 2, hidden, 4, (0, 1))
    assert check_drift(guided, trained) is None and guided["classes"] == trained["classes"] == pytest.approx(
        2
    )
    unknown = watch(reference, torch.full_like(reference, 255), hidden, 4, range(4))
    assert unknown["score"] == 0
