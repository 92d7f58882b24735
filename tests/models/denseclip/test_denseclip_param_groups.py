"""How every parameter learns: the official tables, and ours."""

import json

import pytest
import torch
from small_denseclip import VIT, small

from denseclip.models.denseclip import build_denseclip, param_groups, treatments
from denseclip.models.encoders import infer_shapes
from denseclip.models.official import official_config
from fixtures_support import cases


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("denseclip", "param_groups_*.json"), ids=lambda p: p.stem)
def test_official_table(path):
    table = json.loads(path.read_text())
    with torch.device("meta"):
        state = {name: torch.empty(entry[0]) for name, entry in table.items()}
        classes = [f"c{i}" for i in range(len(state["decode_head.conv_seg.weight"]))]
        model = build_denseclip(
            official_config(state),
            infer_shapes(state),
            classes,
            tokenize=lambda names: torch.ones(len(names), 3, dtype=torch.long, device="cpu"),
        )
    keys = {name: how.key for name, how in treatments(model).items()}
    ours = {
        name: [list(parameter.shape), keys[name], group["lr"], group["weight_decay"]]
        for group in param_groups(model, lr=1e-4, weight_decay=1e-4)
        for name, parameter in zip(group["names"], group["params"], strict=True)
    }
    assert ours.keys() == table.keys()
    for name, entry in table.items():
        assert ours[name][:2] == entry[:2], name
        assert ours[name][2:] == pytest.approx(entry[2:]), name


def test_ours_freezes_text_and_spares_vectors():
    model = small(VIT)
    found = {name: (g["rate"], g["weight_decay"]) for g in param_groups(model) for name in g["names"]}
    assert not any(name.startswith("text_encoder.") for name in found)
    assert found["backbone.conv1.weight"] == (0.1, 1e-4)
    assert found["backbone.ln_pre.weight"] == (0.1, 0.0)
    assert found["backbone.fpn1.1.weight"] == (1.0, 1e-4)  # new, though inside the backbone
    assert found["gamma"] == (1.0, 0.0)
    assert found["contexts"] == (1.0, 1e-4)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}


def test_groups_go_into_adamw():
    optimizer = torch.optim.AdamW(param_groups(small(), lr=2e-4), lr=2e-4)
    assert {round(group["lr"] / group["rate"], 12) for group in optimizer.param_groups} == {2e-4}
