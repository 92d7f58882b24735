"""One grammar for all commands: every option of every command comes from the one registry."""

import inspect
import json
from pathlib import Path

import pytest
import typer

import denseclip
from cli_support import run
from denseclip.cli.command import LOUDNESS, OPTIONS
from denseclip.cli.data import check, prepare
from denseclip.cli.main import COMMANDS, app
from denseclip.cli.registry import ADVANCED, DEFAULTS, PANELS

GROUP = typer.main.get_command(app)
SHELL = GROUP.commands | {f"data {name}": one for name, one in GROUP.commands["data"].commands.items()}
ALL = {one.name: one for one in COMMANDS} | {"data prepare": prepare, "data check": check}
GONE = {"--void-below", "--only", "--fresh", "--minutes", "--root", "--ontology"}
SCHEMA = json.loads((Path(__file__).parent / "result.schema.json").read_text())


def test_every_command_is_made_by_the_one_rule():
    assert SHELL.keys() - {"data"} == ALL.keys()
    for name in ("detect", "distill", "evaluate", "export", "label", "train"):
        assert inspect.signature(getattr(denseclip, name)._command if hasattr(getattr(denseclip, name), "_command")
                                 else getattr(denseclip, name)) == ALL[name].__signature__  # fmt: skip


@pytest.mark.parametrize("name", ALL)
def test_options_are_those_of_the_registry(name):
    options = [one for one in SHELL[name].params if one.param_type_name == "option" and one.name != "help"]
    python = ALL[name].__signature__.parameters
    for one in options:
        registered = (OPTIONS | LOUDNESS)[one.name].__metadata__[0]
        assert not GONE & {*one.opts, *one.secondary_opts}
        assert (one.help, one.rich_help_panel) == (registered.help, registered.rich_help_panel)
        assert one.rich_help_panel in PANELS
        assert one.default == DEFAULTS.get(one.name, False if one.is_flag else None)
        assert one.name in LOUDNESS or python[one.name].default == one.default
    assert {one.name for one in options} >= LOUDNESS.keys()
    assert sum(one.rich_help_panel != ADVANCED for one in options) <= 10


def test_every_registered_option_is_used():
    assert {option for one in ALL.values() for option in one.__signature__.parameters} >= OPTIONS.keys()
    assert DEFAULTS.keys() <= OPTIONS.keys()


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    from PIL import Image

    from denseclip.data.stickers import render

    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(render("tests/grammar", 0, side=96).image).save(path)
    return path


WORDS = ["--classes", "cat, grass", "--templates", "1"]
CALLS = {
    "segment": ["PICTURE", *WORDS, "--out", "OUT"],
    "label": ["PICTURE", *WORDS, "--out", "OUT", "--format", "coco"],
    "demo": ["--out", "OUT", "--scenes", "0"],
    "evaluate": ["tiny-rn", "stickers20", "--limit", "1", "--out", "OUT"],
    "robustness": [
        "tiny-rn",
        "stickers20",
        "--limit",
        "1",
        "--out",
        "OUT",
        "--kinds",
        "spatter",
        "--levels",
        "1",
    ],
    "export": ["tiny-rn", *WORDS, "--out", "OUT.onnx"],
    "flops": ["tiny-rn", "--size", "64x64"],
    "models": ["--local"],
    "recipes": [],
    "classes": ["voc"],
    "doctor": [],
    "train": ["list"],
    "reproduce": ["table1", "--dry-run"],
}


@pytest.mark.parametrize("name", CALLS)
def test_json_is_one_object_of_the_schema(capsys, tmp_path, picture, name):
    jsonschema = pytest.importorskip("jsonschema")
    arguments = [
        one.replace("OUT", str(tmp_path / "out")).replace("PICTURE", str(picture)) for one in CALLS[name]
    ]
    ran = run(capsys, name, *arguments, "--json")
    assert ran.code == 0, ran.err
    content = json.loads(ran.out)
    jsonschema.validate(content, SCHEMA)
    assert content["command"] == name or name == "demo"
    assert all(Path(file).is_file() for file in content["files"])
    assert bool(content["files"]) == ("OUT" in " ".join(CALLS[name]))
    if name == "reproduce":
        assert "in all about" in content["figures"]["plan"][-1]
    if name in ("segment", "label"):
        assert sum(content["areas"].values()) == pytest.approx(1, abs=1e-4)
        assert content["areas"].keys() <= {*content["classes"]}


def test_quiet_prints_what_went_wrong_alone(capsys, tmp_path, picture):
    (tmp_path / "torn.png").write_bytes(b"")
    command = ["segment", picture, tmp_path / "torn.png", *WORDS]
    ran = run(capsys, *command, "--quiet", "--out", tmp_path / "quiet")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1) and "torn.png" in ran.err
    ran = run(capsys, *command, "--json", "--out", tmp_path / "json")
    assert ran.code == 1 and "torn.png" in json.loads(ran.out)["failed"][0]
    ran = run(capsys, *command, "--verbose", "--out", tmp_path / "verbose")
    assert "classes='cat, grass'" in ran.out


def test_words_and_model_are_questioned_before_what_is_there(capsys, tmp_path, picture):
    assert run(capsys, "segment", picture, *WORDS, "--out", tmp_path / "out").code == 0
    for wrong in (["--classes", "cat, cat"], ["--model", "ViT-B-61"]):
        ran = run(capsys, "segment", picture, *WORDS, *wrong, "--out", tmp_path / "out")
        assert ran.code == 2 and "is there already" not in ran.err
