"""Files that are no checkpoint of ours."""

import pickle
from pathlib import Path

import pytest
import torch

from denseclip.errors import UserError
from denseclip.models.checkpoint import read_saved


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
