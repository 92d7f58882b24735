"""Computing blocks again for the backward pass changes memory, and no value."""

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from denseclip.train.batches import Share
from denseclip.train.recompute import recompute_blocks
from denseclip.train.tasks import build_task, make_batches
from denseclip.train.training import open_recipe_data, train
from train_support import same, small, weights

DENSECLIP = {
    "system": "denseclip",
    "labels": {"hide": "none"},
    "denseclip": {
        "clip": "tiny-vit",
        "config": {"fpn_channels": 16, "decoder_width": 16, "decoder_layers": 1, "drop_path": 0.5},
    },
    "optimizer": {"name": "adamw", "lr": 1e-3},
}


@pytest.mark.parametrize("changes", [{}, DENSECLIP], ids=["student", "denseclip"])
def test_the_same_bits(changes, tmp_path):
    """Batch norms count every batch once, dropped paths are the same ones."""
    for name, on in (("plain", False), ("again", True)):
        train(small(checkpointing=on, **changes), tmp_path / name, device="cpu")
    assert same(weights(tmp_path / "plain" / "last.pt"), weights(tmp_path / "again" / "last.pt"))


def kept(recipe, again):
    """Bytes that a forward pass keeps, weights apart."""
    torch.manual_seed(0)
    data = open_recipe_data(recipe, None)
    task = build_task(recipe, data, torch.device("cpu")).train()
    if again:
        recompute_blocks(task)
    batch = make_batches(recipe, data, task, Share(recipe.batch), 0).batch(0)
    own = {parameter.untyped_storage().data_ptr() for parameter in task.parameters()}
    found, alive = {}, []

    def pack(tensor):
        alive.append(tensor)
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        task(batch, 1)
    return sum(size for place, size in found.items() if place not in own)


def test_less_is_kept():
    recipe = small(augment={"crop": [64, 64]})
    assert kept(recipe, True) < 0.7 * kept(recipe, False)


def test_a_training_goes_on_with_it(tmp_path):
    assert not train(small(), tmp_path, device="cpu", stop=lambda: True).finished
    assert train(small(checkpointing=True), tmp_path, device="cpu").finished
