"""`denseclip robustness`: how much of its accuracy a model keeps on corrupted pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from denseclip.cli import evaluate as e
from denseclip.cli import options as o
from denseclip.cli.results import protocol_table

if TYPE_CHECKING:
    from denseclip.evaluate.robustness import Grid

Kinds = Annotated[
    str, typer.Option(help="Kinds of corruption with commas, such as gaussian_noise,spatter; or all.")
]
Levels = Annotated[str, typer.Option(help="Levels with commas, 1 to 5.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for counts, tables and curves.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the interrupted grid in --out.")]


def robustness(
    context: typer.Context,
    model: e.ModelName,
    data: e.Data,
    root: e.Root = None,
    split: e.Split = None,
    kinds: Kinds = "all",
    levels: Levels = "1,2,3,4,5",
    limit: e.Limit = None,
    protocol: e.ProtocolName = "recommended",
    preset: o.Preset = "auto",
    proxy: o.Proxy = None,
    refine: o.Refine = None,
    ks_norm: o.KsNorm = e.BY_PROTOCOL,
    background: o.BackgroundWords = None,
    threshold: o.Threshold = None,
    resize: o.Resize = e.BY_PROTOCOL,
    slide: o.SlideOption = "auto",
    fusion: o.FusionOption = "scores",
    scales: o.Scales = "1",
    flip: o.Flip = False,
    templates: o.Templates = e.BY_PROTOCOL,
    compat: o.CompatOption = None,
    activation: o.Activation = None,
    out: Out = Path("denseclip-robustness"),
    resume: Resume = False,
    skip_bad: e.SkipBad = False,
    device: o.Device = "auto",
    precision: o.Precision = "auto",
) -> None:
    """Evaluate a model clean and under every kind and level of corruption.

    Writes robustness.json, robustness.csv and robustness.png, and keeps the counts of every cell in cells/.
    """
    from denseclip.data.corruptions import KINDS
    from denseclip.data.opening import open_dataset
    from denseclip.evaluate.plots import need_matplotlib
    from denseclip.evaluate.robustness import check_grid, write_grid
    from denseclip.evaluate.robustness import robustness as run
    from denseclip.evaluate.run import segmenter_for
    from denseclip.outputs import OutputFolder

    need_matplotlib()
    chosen = KINDS if kinds == "all" else tuple(kind.strip() for kind in kinds.split(","))
    steps = o.parse_numbers(levels)
    check_grid(chosen, steps)
    values = o.settings(locals())
    settings = o.given(context, values) | {"protocol": protocol, "device": device, "precision": precision}
    dataset = open_dataset(data, root, split)
    with o.status(f"loading {model}"):
        segmenter = segmenter_for(dataset.spec, model, **settings)
    with OutputFolder(out, "robustness", begin=True), o.counting("preparing") as progress:
        grid = run(
            segmenter,
            dataset,
            out / "cells",
            kinds=chosen,
            levels=steps,
            resume=resume,
            limit=limit,
            skip_bad=skip_bad,
            progress=lambda cell, done, total: progress(done, total, cell),
        )
        write_grid(grid, out)
    _print(grid)
    o.say(f"written to {out}")


def _print(grid: "Grid") -> None:
    clean = grid.cells[None]
    o.console.print(protocol_table({k: v for k, v in clean.protocol.describe().items() if k != "corruption"}))
    table = Table(title=f"mIoU in percent; clean: {grid.miou(None):.2f}")
    table.add_column("corruption")
    for level in grid.levels:
        table.add_column(f"level {level}", justify="right")
    for kind in grid.kinds:
        table.add_row(kind, *(f"{grid.miou((kind, level)):.2f}" for level in grid.levels))
    table.add_section()
    table.add_row("mean", *(f"{grid.mean(level):.2f}" for level in grid.levels))
    o.console.print(table)
    for line in clean.skipped:
        o.told("skipped", line)
