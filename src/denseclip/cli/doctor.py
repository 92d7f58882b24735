"""What is here: `denseclip doctor`, `models`, `recipes`, `classes NAME` and `--version`."""

import importlib.util
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import EXTRAS

if TYPE_CHECKING:
    from denseclip.clip.pretrained import CatalogRow


Name = Annotated[str, typer.Argument(help="voc, ade, coco-stuff, context, ...", show_default=False)]


def versions() -> str:
    """One line: this package, torch, the device and the precision that "auto" means here."""
    import torch

    from denseclip.clip.device import pick_device, pick_precision, processor

    place = pick_device("auto")
    precision = pick_precision("auto", place)
    return f"denseclip {version('denseclip')}, torch {torch.__version__}, {processor(place)}, {precision}"


@o.command()
def doctor() -> o.Done[dict[str, Any]]:
    """Tell what is installed, what is missing and what will be slow here, and why."""
    import torch

    from denseclip.text.embeddings import cache_folder

    o.say(versions())
    o.say(f"Python {platform.python_version()} on {platform.system()}, {os.cpu_count()} processors")
    table = Table(title="extras")
    for heading in ("extra", "is", "to install"):
        table.add_column(heading)
    lacking = {}
    for extra, modules in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        state = f"missing: {', '.join(missing)}" if missing else "there"
        lacking[extra] = missing
        table.add_row(extra, state, f"pip install 'denseclip[{extra}]'" if missing else "")
    o.console.print(table)
    cache = cache_folder()
    free = shutil.disk_usage(next(part for part in (cache, *cache.parents) if part.exists())).free
    o.say(f"class embeddings are kept in {cache}; {free / 2**30:.1f} GiB free there")
    hub = Path(os.environ.get("HF_HOME", Path.home() / ".cache" / "huggingface")) / "hub"
    kept = sorted(path.name for path in hub.glob("models--*")) if hub.is_dir() else []
    o.say(f"weights fetched before, in {hub}: {', '.join(kept) or 'none'}; tiny-rn and tiny-vit are embedded")
    for line in _slow(torch.cuda.is_available()):
        o.told("slow here", line, "yellow")
    figures = {"versions": versions(), "missing": lacking, "free_bytes": free, "weights": kept}
    return o.Done(figures, figures=figures)


def _slow(gpu: bool) -> list[str]:
    """What is slow on this machine, and why."""
    import torch

    from denseclip.clip.device import bf16_unit

    lines = []
    if not gpu:
        lines.append("no GPU that torch can use: large CLIPs take seconds a picture, trainings hours")
        if not bf16_unit(torch.device("cpu")):
            lines.append("no bf16 on this CPU: everything runs in fp32")
    elif importlib.util.find_spec("triton") is None:
        lines.append("no Triton: masks are decoded by plain torch, ten times slower; pip install triton")
    return lines


@o.command()
def recipes() -> o.Done[dict[str, str]]:
    """List the recipes of `denseclip train`."""
    from denseclip.train.recipe import read_recipe, recipe_names

    titles = {name: read_recipe(name).title for name in recipe_names()}
    for name, title in titles.items():
        o.say(f"{name}: {title}")
    return o.Done(titles, figures=titles)


@o.command()
def classes(name: Name) -> o.Done[list[str]]:
    """List the words of a class set."""
    from denseclip.text import class_set

    words = [word.strip() for word in class_set(name)]
    for number, word in enumerate(words):
        o.say(f"{number} {word}")
    return o.Done(words, classes=words)


@o.command("all", "local")
def models(**options: Unpack[o.Options]) -> o.Done[list[str]]:
    """List the models that can be used, and which of them are on this machine."""
    from denseclip.clip.pretrained import catalog, not_supported

    everything, local = options.get("all", False), options.get("local", False)
    rows = catalog()
    shown = [row for row in rows if _wanted(row, everything, local)]
    table = Table(title="models that --model takes (a path to a CLIP file or folder works too)")
    for column in ("model", "tower", "cell", "px", "embedding", "parameters", "on this machine"):
        table.add_column(column, justify="left" if column in ("model", "tower") else "right", overflow="fold")
    for row in shown:
        table.add_row(
            row.model,
            row.tower,
            str(row.cell),
            str(row.image_size),
            str(row.embed_dim),
            f"{row.parameters / 1e6:.1f} M",
            "no" if row.local_bytes is None else f"{row.local_bytes / 2**20:.0f} MiB",
        )
    o.console.print(table)
    hidden = len(rows) - len(shown)
    if hidden and not local:
        o.say(f"{hidden} more with --all.")
    for reason, names in not_supported().items() if everything and not local else ():
        o.say(f"not supported ({reason}): {', '.join(names)}")
    names = [row.model for row in shown]
    sizes = {row.model: row.local_bytes for row in shown}
    return o.Done(names, figures={"models": names, "bytes_on_this_machine": sizes})


def _wanted(row: "CatalogRow", everything: bool, local: bool) -> bool:
    if local:
        return row.local is not None
    return everything or row.origin in ("embedded", "openai") or row.local is not None
