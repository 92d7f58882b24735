"""The plan of the house: no circles, no module that is too long, few files on the way of a picture."""

import ast
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import denseclip
from denseclip.train.training import train
from train_support import small

HOME = Path(denseclip.__file__).parent
MODULES = {
    "denseclip" + "".join(f".{part}" for part in path.relative_to(HOME).with_suffix("").parts): path
    for path in sorted(HOME.rglob("*.py"))
}
FLOORS = (
    {"errors"},
    {"outputs"},
    {"io"},
    {"clip"},
    {"text", "data"},
    {"segment"},
    {"models"},
    {"detection", "loading"},
    {"train", "evaluate", "label"},
    {"web", "reproduce"},
    {"cli"},
)


def imports_of(path):
    """Modules of the package that a file imports anywhere in it, with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("denseclip"):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("denseclip."))


def test_no_two_modules_need_each_other():
    needs = {name: set(imports_of(path)) & MODULES.keys() - {name} for name, path in MODULES.items()}
    while True:
        free = {name for name, wanted in needs.items() if not wanted & needs.keys()}
        if not free:
            break
        needs = {name: wanted for name, wanted in needs.items() if name not in free}
    assert not needs, f"a circle among {sorted(needs)}"


def test_imports_go_down():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for name, path in MODULES.items():
        room = name.split(".")[1]
        if room not in floor:
            continue
        for other in imports_of(path):
            target = other.split(".")[1] if "." in other else ""
            if target in floor and floor[target] > floor[room]:
                wrong.append(f"{name} -> {other}")
    assert not wrong


def test_no_module_is_longer_than_a_reader_bears():
    assert not [name for name, path in MODULES.items() if len(path.read_text().splitlines()) > 500]


def test_no_two_modules_are_called_alike():
    """Apart from the command line's, which are called like its commands."""
    names = [path.name for name, path in MODULES.items() if ".cli." not in name]
    twice = {name for name in names if names.count(name) > 1} - {"__init__.py", "config.py"}
    assert not twice


def test_no_module_says_a_name_twice():
    """A constant that is set again further down changes what stands above it, and no linter minds."""
    twice = []
    for name, path in MODULES.items():
        targets = [
            part.id
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            for part in (target.elts if isinstance(target, ast.Tuple) else [target])
            if isinstance(part, ast.Name)
        ]
        twice += [f"{name}.{one}" for one in sorted(set(targets)) if targets.count(one) > 1]
    assert not twice


def files_run(work):
    """Files of the package, without the data room, in which something is executed."""
    seen = set()

    def note(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(HOME):
            seen.add(path.relative_to(HOME).as_posix())

    sys.setprofile(note)
    threading.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return sorted(path for path in seen if not path.startswith("data/"))


@pytest.mark.parametrize("name", ["tiny-rn", "tiny-vit"])
def test_the_way_of_a_picture_and_of_words_is_short(name):
    model = denseclip.load(name, ["cat", "dog"], slide="none", cache=False, precision="fp32")
    picture = np.zeros((96, 96, 3), np.uint8)
    model.segment(picture)
    mask = files_run(lambda: model.segment(picture))
    words = files_run(lambda: model.set_classes(["sofa", "tree"]))
    assert len(mask) <= 10, mask
    assert len(words) <= 6, words


def test_the_way_of_a_maskclip_plus_step_is_short(tmp_path):
    run = []

    def between(told):  # the second step, from the end of the first to its own
        if told.step == 1:
            sys.setprofile(note)
        elif told.step == 2:
            sys.setprofile(None)

    def note(frame, event, argument):
        run.append(frame.f_code.co_filename)

    try:
        train(small(steps=3, save_every=3), tmp_path, on_step=between)
    finally:
        sys.setprofile(None)
    files = {Path(name).relative_to(HOME).as_posix() for name in run if Path(name).is_relative_to(HOME)}
    step = sorted(name for name in files if not name.startswith("data/"))
    assert 8 < len(step) <= 12, step
