"""Counting: operations one by one, the published models, any CLIP."""

import csv
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denseclip.evaluate.costs import PUBLISHED, Subject, cost_of, count
from fixtures_support import cases


def macs(net: nn.Module, run=None, size=(8, 8)) -> int:
    net = net.to("meta").eval()
    return count(Subject(net, run or net), size).macs


def test_convolutions_at_the_right_size():
    assert macs(nn.Conv2d(3, 4, 3, padding=1)) == 64 * 3 * 4 * 9
    assert macs(nn.Conv2d(3, 6, 3, padding=1, groups=3)) == 64 * 6 * 9
    assert macs(nn.ConvTranspose2d(3, 4, 2, 2)) == 64 * 3 * 4 * 4  # every input cell once per weight
    subject = Subject(
        nn.ConvTranspose2d(3, 4, 2, 2).to("meta"), nn.ConvTranspose2d(3, 4, 2, 2, device="meta")
    )
    cost = count(subject, (8, 8))
    assert cost.at_output == 4 * cost.macs


def test_einsum_and_attention():
    net = nn.Identity()
    words = torch.zeros(1, 5, 3, device="meta")
    assert macs(net, lambda x: torch.einsum("bchw,bkc->bkhw", x, words)) == 64 * 5 * 3

    def attend(x):
        q = x.flatten(2).transpose(1, 2)  # (1, 64, 3)
        return F.scaled_dot_product_attention(q, q, q)

    assert macs(net, attend) == 2 * 64 * 64 * 3


def test_norms_and_enlargements_by_convention():
    assert macs(nn.BatchNorm2d(3)) == 2 * 3 * 64
    assert macs(nn.GroupNorm(1, 3)) == 5 * 3 * 64
    assert macs(nn.LayerNorm(8)) == 5 * 3 * 64
    assert macs(nn.Upsample(scale_factor=2, mode="bilinear")) == 4 * 3 * 256
    assert macs(nn.Upsample(scale_factor=2)) == 3 * 256
    assert macs(nn.Sequential(nn.ReLU(), nn.AvgPool2d(2), nn.Softmax(dim=1))) == 0


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        self.image, self.text = nn.Conv2d(3, 4, 1), nn.Linear(8, 2)

    def forward(self, x):
        return self.image(x), self.text(x)


def test_text_is_told_apart():
    net = TwoTowers().to("meta")
    cost = count(Subject(net, net, "text"), (8, 8))
    assert (cost.text_macs, cost.text_params) == (3 * 8 * 8 * 2, 18)
    assert cost.to_dict() == {
        "gmacs": (768 + 384) / 1e9,
        "gmacs_without_text": 768 / 1e9,
        "params": 34,
        "params_without_text": 16,
    }


published_cost = cache(cost_of)
SEGMENTERS = [name for name, row in PUBLISHED.items() if row.kind == "fpn"]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_published_models(name):
    row, cost = PUBLISHED[name], published_cost(name)
    figures = cost.to_dict()
    comparable = (
        cost.at_output - cost.text_macs
    ) / 1e9  # the same, where there are no transposed convolutions
    assert comparable == pytest.approx(row.gmacs, rel=3e-3)
    assert figures["params_without_text"] / 1e6 == pytest.approx(row.params, rel=5e-3)
    if "vit" in name:
        assert comparable - figures["gmacs_without_text"] == pytest.approx(173.946, abs=1e-2)
        assert f"{comparable:.1f}" in row.explain(cost)
    if name == "denseclip-fpn-rn50":
        assert figures["gmacs"] - figures["gmacs_without_text"] == pytest.approx(74.1, abs=0.1)


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("denseclip", "flops_params*.csv"), ids=lambda p: p.stem)
def test_parts_of_the_official_modules(path):
    """The official modules under fvcore; its head also resizes where the size is right already."""
    ours = {"RN50-CLIP": "fpn-rn50", "RN50-DenseCLIP": "denseclip-fpn-rn50", "RN101-CLIP": "fpn-rn101",
            "RN101-DenseCLIP": "denseclip-fpn-rn101", "ViT-B-CLIP": "fpn-vit-b",
            "ViT-B-DenseCLIP": "denseclip-fpn-vit-b"}  # fmt: skip
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] in ours]
    assert rows
    for row in rows:
        cost = published_cost(ours[row["model"]])
        for part in ("backbone", "context_decoder", "neck", "decode_head"):
            wanted = float(row[f"g_{part}"])
            assert cost.modules.get(part, 0) / 1e9 == pytest.approx(wanted, rel=3e-3, abs=1e-3), (
                row["model"],
                part,
            )
        figures = cost.to_dict()
        assert figures["gmacs"] == pytest.approx(float(row["gmacs_total_with_text_encoder"]), rel=1e-3)
        assert figures["params"] / 1e6 == pytest.approx(float(row["params_total_M"]), abs=1e-3)
        without = float(row["params_without_text_encoder_M"])
        assert figures["params_without_text"] / 1e6 == pytest.approx(without, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in SEGMENTERS])
def test_published_detectors(name):
    row, cost = PUBLISHED[name], published_cost(name)
    figures = cost.to_dict()
    assert cost.size == (800, 1280)
    assert figures["params_without_text"] / 1e6 == pytest.approx(row.params, rel=1e-2)
    if "retinanet" in name:
        assert figures["gmacs_without_text"] == pytest.approx(row.gmacs, rel=5e-3)
    else:
        comparable = (cost.at_output - cost.text_macs) / 1e9  # as old counters have transposed convolutions
        at_stride_4 = {"denseclip-maskrcnn-rn50": 5.24, "denseclip-maskrcnn-rn101": 2.62}.get(name, 0)
        assert comparable + at_stride_4 == pytest.approx(row.gmacs, rel=2e-3)
        assert f"{comparable:.1f}" in row.explain(cost)


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("denseclip", "flops_params*.csv"), ids=lambda p: p.stem)
def test_official_detectors(path):
    """The official trunk and words under fvcore; its heads by hand."""
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"].split()[0] in ("retinanet", "maskrcnn")]
    assert len(rows) >= 8
    for row in rows:
        kind, trunk = row["model"].split()
        depth, method = trunk.lower().split("-")
        name = f"{'denseclip-' if method == 'denseclip' else ''}{kind}-{depth}"
        figures = published_cost(name).to_dict()
        assert figures["gmacs_without_text"] == pytest.approx(
            float(row["gmacs_without_text_encoder"]), rel=5e-4
        )
        wanted = float(row["params_without_text_encoder_M"])
        assert figures["params_without_text"] / 1e6 == pytest.approx(
            wanted, abs=1.1e-2
        )  # the background's rows


def test_any_clip_without_weights():
    small, large = cost_of("RN50", (224, 224)), cost_of("RN50", (448, 448))
    assert 3.8 < (large.macs - large.text_macs) / (small.macs - small.text_macs) < 4.2
    assert small.text_macs == large.text_macs > 0
    assert (small.params, small.text_params) == (102_007_136, 63_690_240)
    assert cost_of("ViT-B-32", (64, 64)).params > 0


def test_trained_checkpoint(monkeypatch):
    """Counted like any model, its words with it."""
    from clip_support import tiny_clip
    from denseclip.clip.clip import OPENAI_STATS
    from denseclip.evaluate import costs
    from denseclip.models.config import DenseClipConfig
    from denseclip.models.denseclip import build_denseclip
    from denseclip.models.trained import TrainedDenseClip

    model = build_denseclip(DenseClipConfig(), tiny_clip("rn"), ["cat", "dog"])
    parameters = sum(p.numel() for p in model.parameters())
    trained = TrainedDenseClip("last.pt", model, OPENAI_STATS)
    monkeypatch.setattr(costs, "trained_kind", lambda path: "ours" if path == "last.pt" else None)
    monkeypatch.setattr(costs, "load_trained", lambda *arguments: trained)
    cost = cost_of("last.pt", (64, 64))
    assert cost.macs > cost.text_macs > 0
    assert cost.params == parameters
