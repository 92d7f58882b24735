"""What the documents name exists, their links lead somewhere, their commands have these options, their code runs."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

import denseclip
from denseclip.cli.main import app

HOME = Path(__file__).parents[1]
EQUATIONS = (HOME / "docs" / "equations.md").read_text(encoding="utf-8")
CODE = re.findall(r"`((?:text|segment|train|models|detection|evaluate|data)\.[\w.]+)`", EQUATIONS)
TESTS = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", EQUATIONS)
PAGES = {
    path.relative_to(HOME).as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((*HOME.glob("*.md"), *HOME.glob("docs/**/*.md")))
}
LONG = {"docs/tutorials/small-model.md", "docs/tutorials/own-labels.md"}  # they train
RUN = ["README.md", "docs/index.md", *(name for name in PAGES if name.startswith("docs/tutorials/"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
COMMANDS = typer.main.get_command(app)
SETUP = ("pip install", "make ", "python3 -m venv", ". .venv")  # done before, by whoever runs the tests


@pytest.mark.parametrize("name", sorted(set(CODE)))
def test_the_code_of_an_equation_is_where_the_table_says(name):
    parts = name.split(".")
    found = importlib.import_module("denseclip." + ".".join(parts[:2]))
    for part in parts[2:]:
        found = getattr(found, part)


@pytest.mark.parametrize(("file", "function"), sorted(set(TESTS)))
def test_the_proof_of_an_equation_is_there(file, function):
    path = HOME / file if file.startswith("tests/") else HOME / "tests" / file
    names = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert not function or function in names


def test_there_are_as_many_as_the_papers_have():
    assert len(CODE) >= 25
    assert sum("fixtures" in line or " * |" in line for line in EQUATIONS.splitlines()) >= 25


def anchors(text):
    """As GitHub and mkdocs make them of headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    text = FENCE.sub("", PAGES[name])
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (HOME / name).parent / file if file else HOME / name
        there = path.exists() and (name[:5] != "docs/" or path.resolve().is_relative_to(HOME / "docs"))
        if not there or (anchor and anchor not in anchors(path.read_text(encoding="utf-8"))):
            wrong.append(target)
    assert not wrong


def commands_of(text):
    """Commands of `denseclip` in fences, indented blocks and backticks, as lists of words."""
    text = text.replace("\\\n", " ")
    lines = re.findall(r"^(?: {4}|)(denseclip .*)$", text, re.M) + re.findall(r"`(denseclip [^`]*)`", text)
    for line in lines:
        try:
            yield line, shlex.split(line, comments=True)[1:]
        except ValueError:  # a sentence, not a command
            continue


@pytest.mark.parametrize("name", PAGES)
def test_commands_have_the_options_that_documents_give_them(name):
    wrong = []
    for line, words in commands_of(PAGES[name]):
        command = COMMANDS
        while words and hasattr(command, "commands"):
            if words[0] not in command.commands:
                break
            command = command.commands[words.pop(0)]
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        known |= {"--help", "-h"}
        options = [word for word in words if re.match(r"--?[a-zA-Z]", word)]
        if (
            hasattr(command, "commands")
            and words
            and not options
            and words[0].isidentifier()
            and words[0].islower()
        ):
            wrong.append(line)
        wrong += [f"{line}: {option}" for option in options if option.partition("=")[0] not in known]
    assert not wrong


def script_of(page):
    """All that a page tells to type, one after the other, as one script of bash."""
    parts = []
    for kind, block in FENCE.findall(page):
        if kind == "sh":
            parts.append("".join(x for x in block.splitlines(True) if not x.strip().startswith(SETUP)))
        elif kind == "python":
            parts.append(f"python - <<'PYTHON'\n{block}PYTHON\n")
    return "\n".join(parts)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in RUN]
)
def test_what_a_page_tells_to_type_works(name, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool, call in {"denseclip": "-m denseclip.cli.main ", "python": ""}.items():
        (tools / tool).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {call}"$@"\n')
        (tools / tool).chmod(0o755)
    env = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(Path(denseclip.__file__).parents[1]),
        "HF_HUB_OFFLINE": "1",
    }
    script = script_of(PAGES[name])
    assert script
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr[-3000:]


def test_python_elsewhere_is_python():
    for page in PAGES.values():
        for kind, block in FENCE.findall(page):
            if kind == "python":
                ast.parse(block)


def test_readme_fits_two_screens_and_tells_the_test_command():
    readme = PAGES["README.md"]
    assert len(readme.splitlines()) <= 110
    assert "make test" in readme


def test_each_page_is_on_the_site():
    listed = set(re.findall(r"[\w/-]+\.md", (HOME / "mkdocs.yml").read_text()))
    assert {f"docs/{name}" for name in listed} == {name for name in PAGES if name.startswith("docs/")}


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=HOME, check=True,
    )  # fmt: skip


def test_extras_are_told_where_they_are_listed():
    extras = tomllib.loads((HOME / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = set(re.findall(r"^\| `(\w+)` \|", PAGES["docs/index.md"], re.M))
    assert told == extras.keys() - {"dev", "docs", "readers"}
