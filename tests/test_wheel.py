"""The wheel as users get it: built, checked, installed in an environment of its own, and used."""

import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

HOME = Path(__file__).parents[1]
MOST = 32 * 2**20  # bytes of the wheel; the embedded CLIPs are nearly all of it


@pytest.mark.slow
def test_the_wheel_has_all_that_it_needs(tmp_path):
    for tool in ("build", "twine", "hatchling"):
        pytest.importorskip(tool)
    dist = tmp_path / "dist"
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, HOME], check=True)
    made = sorted(dist.iterdir())
    assert [path.suffix for path in made] == [".whl", ".gz"]
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *made], check=True)
    wheel = made[0]
    assert wheel.stat().st_size < MOST
    inside = set(ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "src/denseclip"], cwd=HOME, capture_output=True, text=True, check=True
    )
    assert {line.removeprefix("src/") for line in tracked.stdout.splitlines()} <= inside

    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", wheel], check=True)
    packages = next(home.glob("lib/python*/site-packages"))
    (packages / "borrowed.pth").write_text(
        "\n".join(path for path in sys.path if path.endswith("site-packages"))
    )  # torch and the rest, not downloaded
    where = subprocess.run(
        [python, "-c", "import denseclip; print(denseclip.__file__)"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env={},
    )  # fmt: skip
    assert where.stdout.startswith(str(packages))
    ran = subprocess.run(
        [home / "bin" / "denseclip", "demo", "--out", "demo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={},
    )
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "demo" / "scene-0-overlay.png").is_file()
