"""Without the extras: segmenting works, and what needs one says how to install it."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import denseclip
from denseclip.errors import EXTRAS

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
BLOCKED = sorted(
    {module for modules in EXTRAS.values() for module in modules} - {"pydantic"}
)  # typer brings it
RUN = f"""
import sys
sys.modules.update(dict.fromkeys({[*BLOCKED, "transformers", "supervision", "pandas"]!r}))
from denseclip.cli.main import main
main()
"""


def light(*arguments, cwd=None):
    """The command in a process that has the base install alone."""
    env = os.environ | {"PYTHONPATH": str(Path(denseclip.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", RUN, *arguments], capture_output=True, text=True, cwd=cwd, env=env
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (64, 64), "green").save(folder / "a.png")
    return folder


def test_each_extra_of_the_project_is_told():
    plain = {"all", "docs", "dev", "readers"}
    assert EXTRAS.keys() == PROJECT["optional-dependencies"].keys() - plain


def test_masks_need_the_base_install_alone(pictures, tmp_path):
    ran = light("segment", str(pictures), "--classes", "cat, grass", "--out", str(tmp_path / "out"))
    assert ran.returncode == 0, ran.stderr
    assert json.loads((tmp_path / "out" / "classes.json").read_text())
    assert light("models").returncode == 0


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("segment PICTURES --classes cat --model ViT-B-16", "hub"),
        ("serve", "web"),
        ("label PICTURES --classes cat --format coco", "coco"),
        ("distill PICTURES --classes cat", "train"),
        ("train stickers20-annofree", "train"),
        ("evaluate tiny-rn stickers20 --out figures", "evaluate"),
        ("robustness tiny-rn stickers20", "evaluate"),
        ("export tiny-rn --classes cat", "export"),
        ("label PICTURES --classes cat --format yolo --engine ray", "cluster"),
    ],
)
def test_a_missing_extra_is_named_with_its_install_line(command, extra, pictures, tmp_path):
    ran = light(*command.replace("PICTURES", str(pictures)).split(), cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert ran.stderr.strip().splitlines()[-1].startswith("denseclip: ")
    assert f"pip install 'denseclip[{extra}]'" in ran.stderr and "Traceback" not in ran.stderr
