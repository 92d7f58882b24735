"""`denseclip robustness`: how much of its accuracy a model keeps on corrupted pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from rich.table import Table

from denseclip.cli import evaluate as e
from denseclip.cli import options as o
from denseclip.cli.console import protocol_table

if TYPE_CHECKING:
    from denseclip.evaluate.grid import Grid


@o.command(*e.MEASURED, *o.METHOD, "kinds", "levels")
def robustness(model: e.ModelName, data: e.Data, /, **options: Unpack[o.Options]) -> "o.Done[Grid]":
    """Evaluate a model clean and under every kind and level of corruption.

    In runs/robustness, unless --out says otherwise: robustness.json, robustness.csv and robustness.png, and the
    counts of every cell in cells/.
    """
    from denseclip.data.corruptions import KINDS
    from denseclip.data.opening import open_dataset
    from denseclip.evaluate.grid import check_grid, write_grid
    from denseclip.evaluate.grid import robustness as run
    from denseclip.evaluate.plots import need_matplotlib
    from denseclip.evaluate.run import segmenter_for
    from denseclip.outputs import OutputFolder

    need_matplotlib()
    given = o.values(options)
    out, kinds = given["out"] or Path("runs/robustness"), given["kinds"]
    chosen = KINDS if kinds == "all" else tuple(kind.strip() for kind in kinds.split(","))
    steps = o.parse_numbers(given["levels"])
    check_grid(chosen, steps)
    settings = o.settings(options) | e.measured(options)
    dataset = open_dataset(data, given["data_root"], given["split"])
    with o.status(f"loading {model}"):
        segmenter = segmenter_for(dataset.spec, model, **settings)
    with OutputFolder(out, "robustness", begin=True), o.counting("preparing") as progress:
        grid = run(
            segmenter,
            dataset,
            out / "cells",
            kinds=chosen,
            levels=steps,
            resume=given["resume"],
            limit=given["limit"],
            skip_bad=given["skip_bad"],
            progress=lambda cell, done, total: progress(done, total, cell),
        )
        write_grid(grid, out)
    _print(grid)
    o.say(f"written to {out}")
    figures = {"clean": grid.miou(None)} | {f"level {level}": grid.mean(level) for level in grid.levels}
    return o.Done(grid, [out / f"robustness.{kind}" for kind in ("json", "csv", "png")], figures=figures)


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
