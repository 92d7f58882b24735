"""The examples do what their first lines say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import denseclip
from denseclip.data.stickers import render

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("examples")
    (folder / "photos").mkdir()
    Image.fromarray(render("demo", 0, side=320).image).save(folder / "photos" / "a.png")
    return folder


def example(folder, name, *arguments):
    env = os.environ | {"PYTHONPATH": str(Path(denseclip.__file__).parents[1])}
    command = [sys.executable, EXAMPLES / f"{name}.py", *arguments]
    ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_words_to_masks(folder):
    told = example(folder, "words_to_masks", "photos", "key, stone wall, tile floor", "out")
    assert {line.partition(":")[0] for line in told.splitlines()} >= {"key", "stone wall", "tile floor"}
    assert (folder / "out" / "a.png").is_file()


def test_cut_out(folder):
    example(folder, "cut_out", "photos/a.png", "stone wall", "wall.png", "tile floor")
    alpha = np.asarray(Image.open(folder / "wall.png"))[..., 3]  # (H, W)
    assert alpha[-10:].mean() > alpha[:10].mean()  # the wall is below, the floor above


def test_compare_methods(folder):
    told = dict(line.split(": ") for line in example(folder, "compare_methods", "4").splitlines())
    assert float(told["maskclip"].split()[0]) > float(told["vanilla"].split()[0])


def test_masks_without_torch(folder):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    denseclip.export("tiny-rn", classes="key, stone wall", uint8=True, out=folder / "words.onnx")
    example(folder, "masks_without_torch", "words.onnx", "photos/a.png", "mask.png")
    assert set(np.unique(np.asarray(Image.open(folder / "mask.png")))) <= {0, 1}


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path, monkeypatch):
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", str(Path(denseclip.__file__).parents[1]))
    book = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    shown = [o for cell in book.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    assert len(shown) >= 3


def test_notebooks_are_kept_without_results():
    for path in EXAMPLES.glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
