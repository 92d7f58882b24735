"""Every kind of training in fp32 and in bf16 under autocast, on every CPU: slow without native bf16, but it runs."""

import math

import pytest
import torch
from test_denseclip_task import DENSE
from test_detection_task import recipe as detection

import denseclip
from denseclip.clip import device
from denseclip.clip.device import Precision, pick_precision
from denseclip.errors import UserError
from denseclip.train.recipe import laid_over
from denseclip.train.training import train
from train_support import small

KINDS = {
    "annotation-free": lambda **changes: small(**laid_over({"steps": 2}, changes)),
    "zero-shot": lambda **changes: small(
        **laid_over(
            {"labels": {"hide": "unseen", "guided": [1, 1], "self_training": [2]}, "steps": 2}, changes
        )
    ),
    "denseclip": lambda **changes: small(**laid_over(DENSE, {"steps": 2, **changes})),
    "retinanet": lambda **changes: detection("retinanet", **changes),
    "maskrcnn": lambda **changes: detection("maskrcnn", **changes),
}


def losses(kind, precision, folder):
    told = []
    outcome = train(KINDS[kind](precision=precision, panel_every=2), folder, on_step=told.append)
    assert f"{precision} (asked for)" in outcome.precision
    return [one.values["loss"] for one in told]


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_learns_what_fp32_does(kind, tmp_path):
    if kind in ("retinanet", "maskrcnn"):
        pytest.importorskip("pycocotools")
    full, half = (losses(kind, precision, tmp_path / precision) for precision in ("fp32", "bf16"))
    assert len(full) == len(half) == 2
    assert all(math.isfinite(value) for value in (*full, *half))
    assert half == pytest.approx(full, rel=0.05)
    assert (tmp_path / "bf16" / "panels" / "000002.png").exists()


def test_a_training_goes_on_in_the_precision_it_began_with(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "bf16_unit", lambda device: "the CPU has AMX")
    recipe = small(precision="auto", steps=3)
    begun = train(recipe, tmp_path, stop=lambda: True)
    assert begun.precision.startswith("bf16 (auto: the CPU has AMX), CPU, ")
    monkeypatch.setattr(device, "bf16_unit", lambda device: "")
    assert train(recipe, tmp_path).precision.startswith("bf16 (auto: as the training began), CPU, ")


def test_what_auto_is_and_what_is_refused(monkeypatch):
    cpu = torch.device("cpu")
    assert str(pick_precision("auto", cpu)) == "fp32 (auto: no fast bf16 here)"
    monkeypatch.setattr(device, "bf16_unit", lambda device: "the CPU has AVX512-BF16")
    assert pick_precision("auto", cpu) == Precision("bf16", "auto: the CPU has AVX512-BF16")
    assert pick_precision("fp32", cpu).dtype == torch.float32
    for name, message in (("fp16", "precision fp16 is for GPUs"), ("int8", "precision 'int8' is unknown")):
        with pytest.raises(UserError, match=message):
            pick_precision(name, cpu)


@pytest.mark.parametrize("model", ["tiny-rn", "tiny-vit"])
def test_bf16_masks_are_those_of_fp32(model):
    from denseclip.data.published import dataset_spec
    from denseclip.data.sticker_sets import open_stickers

    spec = dataset_spec("stickers20")
    image = open_stickers(spec, "val", side=192)[0].image
    full, half = (
        denseclip.load(model, list(spec.classes), precision=p).segment(image) for p in ("fp32", "bf16")
    )
    assert (full.mask == half.mask).mean() > 0.97
