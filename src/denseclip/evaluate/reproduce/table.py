"""A published table from one call."""

from collections.abc import Callable, Mapping
from pathlib import Path

from denseclip.evaluate.report import need_matplotlib
from denseclip.evaluate.reproduce.bench import Bench
from denseclip.evaluate.reproduce.claims import judge
from denseclip.evaluate.reproduce.figures import draw
from denseclip.evaluate.reproduce.grid import Row, rows_of
from denseclip.evaluate.reproduce.markdown import page
from denseclip.evaluate.reproduce.needs import have_embedded, require
from denseclip.evaluate.reproduce.report import Line, Report, common, model_details
from denseclip.evaluate.result import Result
from denseclip.io import write_text
from denseclip.recipes import Recipe, ScaleName, recipe
from denseclip.text.cache import cache_folder

RowProgress = Callable[[str, int, int, int], None]
"""Name of the row at work, its number from 0, images done and to do in it."""


def reproduce(
    name: str,
    scale: ScaleName = "mini",
    *,
    out: Path | None = Path("results"),
    root: Path | None = None,
    models: Mapping[str, str] | None = None,
    limit: int | None = None,
    fresh: bool = False,
    device: str = "auto",
    precision: str = "fp32",
    cache: Path | None = None,
    progress: RowProgress | None = None,
) -> Report:
    """Run the rows of a published table that need no training; write NAME-SCALE.md, .csv, .json and .png into `out`.

    name: see `TABLES`. scale "mini": tiny CLIPs on sticker scenes; "paper": as published, with `root` holding the
    data sets. models: by published name, what to load instead. limit: only the first images. fresh: forget what
    was counted before. cache: where counts are kept, by default with denseclip's other caches.
    out: None to write nothing. Raises UserError for what cannot be used; MissingError, with a line for each thing,
    where data or weights are not there.
    """
    need_matplotlib()
    table = recipe(name)
    chosen = planned(table, scale, models or {}, root)
    images = table.scales[scale].images if limit is None else limit
    bench = Bench(
        table.scales[scale].protocol,
        cache or counts_folder(),
        root=root,
        images=images,
        fresh=fresh,
        device=device,
        precision=precision,
    )
    results = [bench.run(row, _within(progress, row, number)) for number, row in enumerate(chosen)]
    command = command_line(name, scale, "--rows training-free", models or {}, limit)
    report = make_report(table, scale, command, chosen, results, _notes(table, scale, chosen, limit))
    if out is not None:
        write(report, out)
    return report


def counts_folder() -> Path:
    """Where counts are kept."""
    return cache_folder() / "reproduce"


def planned(table: Recipe, scale: ScaleName, models: Mapping[str, str], root: Path | None) -> list[Row]:
    """The rows that can be run here, after checking that what they need is there.

    An embedded model that this installation lacks leaves its rows out.
    """
    found = rows_of(table, scale, models)
    there = [row for row in found if have_embedded(row.source)]
    sources = dict.fromkeys(row.source for row in (there or found))
    data = table.scales["paper"].data if scale == "paper" else {}
    require(list(sources), list(data.values()), root)
    return there


def make_report(
    table: Recipe, scale: ScaleName, command: str, rows: list[Row], results: list[Result], notes: list[str]
) -> Report:
    """Figures and claims of rows that have been run."""
    shared = common(results)
    runs = {row.place: result for row, result in zip(rows, results, strict=True)}
    shown = {name: what for row in rows for name, what in zip(row.place, (row.model, row.data), strict=False)}
    return Report(
        recipe=table,
        scale=scale,
        command=command,
        models={row.model: model_details(row, result) for row, result in zip(rows, results, strict=True)},
        protocol=shared,
        lines=[Line.of(row, result, shared) for row, result in zip(rows, results, strict=True)],
        claims=judge(table, runs, shown),
        notes=notes,
    )


def write(report: Report, out: Path) -> None:
    """Write all files of a report."""
    draw(report, out / f"{report.stem}.png")
    write_text(out / f"{report.stem}.csv", report.to_csv())
    write_text(out / f"{report.stem}.json", report.to_json())
    write_text(out / f"{report.stem}.md", page(report, [f"{report.stem}.png"]))


def _within(progress: RowProgress | None, row: Row, number: int) -> Callable[[int, int], None] | None:
    title = f"{row.model}, {row.data}, {row.method.name}"
    return None if progress is None else lambda done, total: progress(title, number, done, total)


def command_line(name: str, scale: ScaleName, rows: str, models: Mapping[str, str], limit: int | None) -> str:
    """The command without what changes no figure, and without paths. rows: "" or the option."""
    parts = ["denseclip reproduce", name, f"--scale {scale}", *([rows] if rows else [])]
    parts += ["--root ROOT"] if scale == "paper" else []
    parts += [f"--model {name}=PATH" for name in sorted(models)]
    return " ".join(parts + ([f"--limit {limit}"] if limit is not None else []))


def _notes(table: Recipe, scale: ScaleName, there: list[Row], limit: int | None) -> list[str]:
    notes = [table.note] if table.note else []
    left_out = [name for name in table.scales[scale].models if name not in {row.place[0] for row in there}]
    for name in left_out:
        notes.append(
            f"{table.scales[scale].models[name]} is not in this installation; its rows are left out."
        )
    if limit is not None and scale == "paper":
        notes.append(f"Only the first {limit} images: not comparable with the published figures.")
    return notes
