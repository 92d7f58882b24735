"""Files that are no checkpoint of ours."""

import pickle
from pathlib import Path

import pytest
import torch

from denseclip.clip.weights import load_weights
from denseclip.errors import UserError
from denseclip.models.checkpoint import read_saved, restore


def half_of_a_checkpoint() -> bytes:
    path = Path("whole.pt")
    torch.save({"weights": torch.zeros(1000)}, path)
    return path.read_bytes()[:2000]


@pytest.mark.parametrize(
    "content",
    [b"", b"junk\n", b'{"a": 1}', pickle.dumps(Path("x")), half_of_a_checkpoint],
    ids=["empty", "text", "JSON", "objects", "half"],
)
def test_what_torch_cannot_read_is_said_without_its_words(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Path("file.pt").write_bytes(content() if callable(content) else content)
    with pytest.raises(
        UserError, match=r"^file\.pt is no checkpoint, or damaged \([\d,]+ bytes\); give one of"
    ):
        read_saved("file.pt")


def test_a_checkpoint_of_something_else(tmp_path):
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"is no checkpoint of denseclip train; give its last\.pt"):
        read_saved(tmp_path / "other.pt")


def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    torch.save({}, tmp_path / "file.pt")
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(UserError, match=r"file\.pt cannot be read \(Permission denied\); check it$"):
        read_saved(tmp_path / "file.pt")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda weight: (weight * 100).to(torch.int8), r"quantized weights 0.weight \(int8\)"),
        (lambda weight: torch.full_like(weight, float("nan")), "NaN or infinite values in 0.weight"),
        (lambda weight: torch.full_like(weight, float("inf")), "NaN or infinite values in 0.weight"),
    ],
)
def test_weights_that_torch_would_take_without_a_word_are_refused(spoil, message):
    """By the loader of our own checkpoints and by that of the official models, detectors among them."""
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    state = dict(network.state_dict())
    restore(network, {"model": {f"model.{name}": tensor for name, tensor in state.items()}}, "a.pt")
    load_weights(network, state, "a.pth", "take another")
    state["0.weight"] = spoil(state["0.weight"])
    with pytest.raises(UserError, match=f"a.pt: {message}"):
        restore(network, {"model": {f"model.{name}": tensor for name, tensor in state.items()}}, "a.pt")
    with pytest.raises(UserError, match=f"a.pth: {message}"):
        load_weights(network, state, "a.pth", "take another")
