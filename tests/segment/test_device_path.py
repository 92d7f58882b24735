"""How a GPU is given its work, shown on the CPU, and on a GPU where there is one."""

import copy

import numpy as np
import pytest
import torch

import denseclip
from denseclip.clip import ImageStats
from denseclip.errors import UserError
from denseclip.segment import segmenter as module
from denseclip.segment.resample import Ready, Window, network_inputs, network_inputs_on

GPU = torch.cuda.is_available()
OPTIONS = [
    {},
    {"refine": "pd+ks"},
    {"refine": "guided"},
    {"refine": "none", "background": "none"},
    {"slide": "96/64", "resize": "short:160"},
    {"scales": (1, 1.25), "flip": True},
    {"threshold": 0.05},
    {"compat": "official"},
]


def pictures():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (5, 12, 16, 3)).astype(np.uint8)
    several = [np.kron(one, np.ones((8, 8, 1), np.uint8)) for one in coarse]
    return [*several[:3], several[3][:60], several[4]]


@pytest.mark.parametrize("options", OPTIONS)
def test_batches_of_a_device_give_the_masks_of_single_pictures(monkeypatch, options):
    def load(device):
        words = ["cat", "grass", "a red car"]
        return denseclip.load("tiny-rn", words, device=device, precision="fp32", cache=False, **options)

    expected = [load("cpu").segment(one, confidence=True) for one in pictures()]
    model = load("cuda" if GPU else "cpu")
    monkeypatch.setattr(module, "works_alone", lambda device: True)
    for _ in range(4):  # from the third time on as CUDA graphs
        found = list(model.segment(pictures(), confidence=True, batch_size=3))
    for one, other in zip(found, expected, strict=True):
        assert one.mask.dtype == other.mask.dtype
        assert (one.mask == other.mask).mean() >= 0.99
        assert np.abs(one.confidence - other.confidence).mean() < 0.01 * max(1, other.confidence.mean())
        np.testing.assert_array_equal(one.image, other.image)
        assert one.heatmap("cat").shape == one.mask.shape


def test_inputs_made_on_a_device_are_those_of_the_cpu():
    stats = ImageStats((0.5, 0.4, 0.3), (0.25, 0.2, 0.3))
    images, device = pictures()[:3], torch.device("cuda" if GPU else "cpu")
    for frame in ((96, 128), (192, 224), (64, 96), (513, 683), (48, 64), (17, 500)):
        cuts = [Window(frame, 0, 0, *frame), Window(frame, 1, 32, 16, 32, flip=True)]
        made = network_inputs_on(device, [Ready.on(device, one) for one in images], cuts, stats)
        for place, image in enumerate(images):
            for one, other in zip(made, network_inputs(image, cuts, stats), strict=True):
                apart = (one[place].cpu() - other).abs() * torch.tensor(stats.std)[:, None, None] * 255
                assert apart.max() < 1.01
                assert (apart > 0.01).float().mean() < 0.01


@pytest.mark.gpu
def test_graphs_notice_other_weights_and_copies():
    model = denseclip.load("tiny-vit", ["cat", "grass"], device="cuda", precision="fp32", cache=False)
    picture = pictures()[0]
    for _ in range(4):
        first = model.segment(picture)
    twin = copy.deepcopy(model)
    assert (twin.segment(picture).mask == first.mask).mean() > 0.999
    moved = model.to("cpu").to("cuda")
    with torch.no_grad():
        for weight in moved.parameters():
            weight.mul_(1.5)
    changed = moved.segment(picture).scores
    assert not torch.allclose(changed, first.scores)


@pytest.mark.gpu
def test_scores_that_are_not_finite_are_told_on_the_way_back():
    model = denseclip.load("tiny-vit", ["cat", "grass"], device="cuda", precision="fp32", cache=False)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(UserError, match="NaN or infinite"):
        model.segment(pictures()[0])
