"""What users wrote is printed as it is, on every terminal."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from rich.progress import Progress

from cli_support import run
from denseclip.cli import console as c

NASTY = "and[/]or [bold]x[/bold] :smile: {a} 50% [link=x]"


def test_every_way_to_print_keeps_brackets(capsys):
    c.say(NASTY)
    c.told("skipped", NASTY)
    with c.status(NASTY):
        pass
    with Progress(c.text_column("{task.description}"), console=c.console) as progress:
        progress.add_task(NASTY, total=1)
    assert capsys.readouterr().out.count(NASTY) == 3


def test_no_command_has_a_console_of_its_own():
    for path in Path(c.__file__).parent.glob("*.py"):
        text = path.read_text()
        if path.name != "console.py":
            assert not any(word in text for word in ("Console(", "[red]", "[bold]", "console.status(")), path


def test_words_and_files_with_brackets(capsys, tmp_path):
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "[bold]x.jpg").write_bytes(b"broken")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "p" / "[red]y[bold].png")
    for command in ("segment", "label"):
        words = ["--classes", "sky [blue], and[/]or", "--templates", "1", "--background", "none"]
        done = run(capsys, command, str(tmp_path / "p"), *words, "--out", str(tmp_path / command))
        assert done.code == 1
        assert "[bold]x.jpg" in done.out
        assert "sky [blue]" in done.out or "and[/]or" in done.out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_streams_that_are_not_utf_8(tmp_path, encoding):
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "\u732b.png")
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", "COLUMNS": "100"}
    command = [
        sys.executable,
        "-m",
        "denseclip.cli.main",
        "segment",
        str(tmp_path / "\u732b.png"),
        "--templates",
        "1",
    ]
    for words, code in (("\u732b, \u0161ky", 0), ("\u732b, \u732b", 2)):
        done = subprocess.run(
            [*command, "--classes", words, "--out", str(tmp_path / f"out{code}")],
            capture_output=True,
            env=environment,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert b"Traceback" not in done.stderr and (done.stdout or done.stderr)
