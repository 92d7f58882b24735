"""One report for all tables: Markdown, JSON, CSV and pictures."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import product, takewhile
from pathlib import Path
from platform import python_version
from statistics import fmean, stdev
from typing import Any

from denseclip.evaluate.costs import PUBLISHED, cost_of
from denseclip.evaluate.metrics import contrast
from denseclip.evaluate.plots import draw_curves, save_figure
from denseclip.evaluate.result import Result
from denseclip.io import write_text
from denseclip.outputs import OutputFolder
from denseclip.reproduce.claims import check_claims, named_figures
from denseclip.reproduce.runs import Finished, FinishedRun, Run
from denseclip.reproduce.tables import CLEAN, Scale, Table

_LABEL = 46  # characters of a row's name
Row = Mapping[str, Any]


def draw(report: Mapping[str, Any], path: Path) -> None:
    """Write a PNG of a report: curves over the levels of corruptions, or bars by data set, row and metric.

    Lines on bars are the range over runs, or the 95 % interval over images; rings are as published.
    """
    if report["levels"]:
        _draw_levels(report, path)
        return
    from matplotlib.figure import Figure

    places = dict.fromkeys(row["stands_for"] for row in report["rows"])
    groups = [[row for row in report["rows"] if row["stands_for"] == place] for place in places]
    bars = [len(group) * (len(report["metrics"]) + 1) for group in groups]
    figure = Figure(figsize=(8.0, 1.2 + 0.17 * sum(bars) + 0.5 * len(groups)), layout="constrained")
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=bars)[:, 0]
    for panel, group in zip(panels, groups, strict=True):
        _draw_panel(panel, group, report["metrics"])
    panels[-1].set_xlabel("percent", fontsize=9)
    said = f"{report['title']}\nlines: range over runs, or 95 % over images"
    if any(row[f"{metric} published"] for row in report["rows"] for metric in report["metrics"]):
        said += "; rings: as published" + (" on other data" if report["scale"] == "mini" else "")
    figure.suptitle(said, fontsize=10)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8)
    save_figure(figure, path)


def _draw_levels(report: Mapping[str, Any], path: Path) -> None:
    curves: dict[str, dict[tuple[str, int] | None, float]] = {}
    for row in report["rows"]:
        if row["mIoU"] is not None:
            kind, _, level = row["method"].rpartition(" ")
            corruption = None if row["method"] == CLEAN else (kind, int(level))
            curves.setdefault(row["clip"], {})[corruption] = row["mIoU"]
    data = ", ".join(dict.fromkeys(row["data"] for row in report["rows"]))
    draw_curves(path, f"{report['title']} ({data})", curves)


def _draw_panel(panel: Any, rows: Sequence[Row], metrics: Sequence[str]) -> None:  # noqa: ANN401 - imported late
    height = 1 / (len(metrics) + 1)
    for number, metric in enumerate(metrics):
        places = [row + (number + 0.5) * height for row in range(len(rows))]
        means = [row[metric] or 0.0 for row in rows]  # nothing to see of what is not there
        ends = [_ends(row, metric) for row in rows]
        below = [max(0.0, mean - low) for mean, (low, _) in zip(means, ends, strict=True)]
        above = [max(0.0, high - mean) for mean, (_, high) in zip(means, ends, strict=True)]
        panel.barh(places, means, height, color=f"C{number}", xerr=[below, above], label=metric)
        printed = [(row[f"{metric} published"], place) for row, place in zip(rows, places, strict=True)]
        rings = [(float(value), place) for value, place in printed if value is not None]
        panel.plot([x for x, _ in rings], [y for _, y in rings], "o", mfc="none", mec="black", ms=4)
    panel.set_yticks(
        [row + (1 - height) / 2 for row in range(len(rows))], [_label(row, rows) for row in rows]
    )
    panel.tick_params(labelsize=8)
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.set_title(rows[0]["data"], fontsize=9)
    panel.grid(axis="x", alpha=0.3)


def _ends(row: Row, metric: str) -> tuple[float, float]:
    """Of the line on a bar; a resampled interval may leave the figure out."""
    if metric == "mIoU" and row["low"] is not None:
        return row["low"], row["high"]
    runs = row["per_run"].get(metric) or [row[metric] or 0.0]
    return min(runs), max(runs)


def _label(row: Row, rows: Sequence[Row]) -> str:
    """The row's method, and what tells it from the data set's other rows of the method."""
    text = row["method"]
    if sum(other["method"] == text for other in rows) > 1:
        text += f": {row['name'] if row['command'] else row['clip']}"
    text = text if len(text) <= _LABEL else f"{text[: _LABEL - 1]}…"
    return f"{text} ({row['missing']})" if row["missing"] else text


Report = Mapping[str, Any]
"""What JSON holds of a table: see `describe`."""
_OF_A_ROW = ("model", "details", "weights", "data", "contents", "corruption")
_DECIDING = ("mean difference", "difference", "threshold", "published")
_EXPLANATION = (
    "Among rows without training, the 95 % interval of a difference, from 2000 times resampled images, has to "
    "pass the threshold. Among trained rows the least favorable seeds are compared: the worst of what should be "
    "higher with the best of what should be lower; where one has a single seed, the interval has to pass. A fall "
    "with the level needs clean surely above the strongest level, and no level surely above the one before it. "
    "Chance is the mIoU of guessing every class equally often. Thresholds were fixed before any figure was known."
)


def describe(
    table: Table, scale: Scale, command: str, planned: Sequence[Run], finished: Finished, notes: Sequence[str]
) -> Report:
    """A table as far as its runs are finished: figures of all rows, claims, and the protocol.

    planned: all runs that are asked for. command: what makes it. notes: what a reader must know.
    """
    order = [run.key for run in planned if not run.recipe] + [(row.name, row.data) for row in table.rows]
    rows = {key: runs for key in order if (runs := [run for run in planned if run.key == key])}
    facts = {key: _facts(runs[0], finished.get(key, ())) for key, runs in rows.items()}
    protocol: dict[str, dict[str, None]] = {}  # every value that occurs, by name
    for name, value in (pair for some in facts.values() for pair in some.items()):
        protocol.setdefault(name, {})[value] = None
    shared = {name: "; ".join(values) for name, values in protocol.items()}
    lines = [_line(table, runs, finished.get(key, ())) for key, runs in rows.items()]
    for line, some in zip(lines, facts.values(), strict=True):
        line["protocol"] = {name: value for name, value in some.items() if value != shared[name]}
    claims, figures = check_claims(table, planned, finished), named_figures(table, finished)
    named = {name: value for name, (value, _) in figures.items()}
    for line, runs in zip(lines, rows.values(), strict=True):
        named |= {runs[0].figure(m): line[m] for m in table.metrics if line[m] is not None}
    named |= {f"difference: {one.claim}": one.figures["difference"] for one in claims if one.figures}
    return {
        "name": table.name,
        "title": table.title,
        "scale": scale,
        "command": command,
        "complete": not any(line["missing"] for line in lines),
        "protocol": {**shared, "python": python_version()},
        "models": _models(finished),
        "notes": list(notes),
        "unlike": table.unlike,
        "metrics": list(table.metrics),
        "levels": list(table.levels),
        "rows": lines,
        "means": _means(table, scale, finished) if table.mean else [],
        "others": [{"data": one.data, "method": one.method, **one.published} for one in table.others],
        "claims": [claim.to_dict() for claim in claims],
        "claims_figures": named,
        "figures": list(figures),
        "published_figures": {name: value for name, (_, value) in figures.items() if value is not None},
        "costs": [_cost(name) for name in table.costs],
    }


def _facts(run: Run, finished: Sequence[FinishedRun]) -> dict[str, str]:
    """The protocol of a row: how it was evaluated, and what it was trained on."""
    described = finished[0].result.protocol.describe() if finished else {}
    found = {name: str(value) for name, value in described.items() if name not in _OF_A_ROW and value != ""}
    recipe = run.recipe
    if recipe is not None and run.seed is not None:
        crop = recipe.detection.crop if recipe.system == "detection" else recipe.augment.crop
        views = f"crops of {crop[0]} x {crop[1]} px" if crop else f"pictures ({recipe.detection.resize})"
        images = f"{recipe.data.images or 'all'} images, {recipe.precision}"
        found["training"] = f"{recipe.steps} x {recipe.batch} {views} from {images}"
        if recipe.teacher_needed:
            mask = recipe.labels.ignore_mask
            found["ignored pixels"] = "none" if mask == "none" else f"as in the {mask}"
    return found


def _line(table: Table, runs: Sequence[Run], finished: Sequence[FinishedRun]) -> dict[str, Any]:
    """One row: means over its runs in percent, every run's own figures, and what they were made with.

    low, high: 95 % over images, of the mIoU of a row without training.
    """
    run, results = runs[0], [one.result for one in finished]
    per_run: dict[str, list[float]] = {metric: [] for metric in table.metrics}
    for result in results:
        for metric, value in result.summary().items():
            per_run.setdefault(metric, []).append(round(value, 2))
    figures: dict[str, Any] = {}
    for metric in table.metrics:
        values = per_run[metric]
        figures[metric] = round(fmean(values), 2) if values else None
        figures[f"{metric} spread"] = round(stdev(values), 2) if len(values) > 1 else None
        figures[f"{metric} published"] = run.published.get(metric)
    free = [one.matrix.per_image for one in results if run.seed is None and isinstance(one, Result)]
    interval = contrast(free, [1.0]) if free else None
    clip, student = run.clip_and_student()
    missing = f"{len(finished)} of {len(runs)} seeds" if finished else "not made yet"
    return {
        "data": run.data,
        "stands_for": run.place,
        "method": run.method,
        "clip": clip,
        "student": student,
        "recipe": run.recipe_name,
        "runs": len(finished),
        "planned": len(runs),
        **figures,
        "low": interval and round(interval.low * 100, 2),
        "high": interval and round(interval.high * 100, 2),
        "missing": missing if len(finished) < len(runs) else "",
        "name": run.name,
        "seeds": [one.run.training.seed for one in finished if one.run.seed is not None],
        "per_run": per_run,
        "images": results[0].images if results else None,
        "weights": [result.protocol.weights for result in results],
        "seconds": [round(one.seconds) for one in finished],
        "warnings": [list(one.warnings) for one in finished],
        "command": "" if run.seed is None else f"denseclip train {run.recipe_name} seed={run.training.seed}",
    }


def _models(finished: Finished) -> dict[str, str]:
    """The CLIPs of a table, each in one line, without where it lies; those of trained rows by their weights."""
    found: dict[str, str] = {}
    for one in (some[0] for some in finished.values() if not some[0].run.recipe):
        protocol = one.result.protocol
        details = protocol.details.removeprefix(f"{protocol.model}: ")
        found[one.run.model] = f"{details}, weights {protocol.weights}; stands for {one.run.stands_for}"
    for one in (some[0] for some in finished.values()):
        for name, weights in zip(one.run.clips, one.weights, strict=False):
            found.setdefault(name, f"weights {weights[:12]}")
    return found


def _means(table: Table, scale: Scale, finished: Finished) -> list[dict[str, Any]]:
    """Mean mIoU over the data sets, beside the published one."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for run, result in ((one.run, one.result) for some in finished.values() for one in some):
        values = groups.setdefault((run.stands_for, run.model, run.method), [])
        values.append(round(result.summary()["mIoU"], 2))
    found = []
    for (name, clip, method), values in groups.items():
        printed = table.published.get(f"{name}/{method}", {}).get("mean") if scale == "paper" else None
        mean = round(fmean(values), 2)
        found.append({"clip": clip, "method": method, "mIoU": mean, "published": printed})
    return found


@cache
def _cost(name: str) -> dict[str, Any]:
    """GMACs and million parameters of a model for one picture, without the text encoder; no weights are needed."""
    cost, printed = cost_of(name), PUBLISHED[name]
    figures = cost.to_dict()
    return {
        "model": name,
        "size": f"{cost.size[0]}x{cost.size[1]}",
        "gmacs": round(figures["gmacs_without_text"], 1),
        "gmacs published": printed.gmacs,
        "params_M": round(figures["params_without_text"] / 1e6, 2),
        "params_M published": printed.params,
        "why": printed.explain(cost),
    }


def refuse_foreign(table: Table, scale: Scale, out: Path) -> None:
    """UserError if a file that is not ours stands where `write` would put one."""
    with OutputFolder(out, "reproduce") as folder:
        folder.refuse_foreign(_paths(table.name, scale, out).values())


def write(report: Report, out: Path) -> None:
    """Write NAME-SCALE.md, .csv, .json and .png into a folder."""
    paths = _paths(report["name"], report["scale"], out)
    with OutputFolder(out, "reproduce", begin=True) as folder:
        draw(report, paths["png"])
        write_text(paths["csv"], to_csv(report))
        write_text(paths["json"], json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        write_text(paths["md"], to_markdown(report))
        folder.finish()


def _paths(name: str, scale: str, out: Path) -> dict[str, Path]:
    return {suffix: out / f"{name}-{scale}.{suffix}" for suffix in ("png", "csv", "json", "md")}


def to_csv(report: Report) -> str:
    """One line a row, after comment lines with command and protocol."""
    text = io.StringIO()
    text.write(f"# {report['command']}\n")
    text.writelines(f"# {key}: {value}\n" for key, value in report["protocol"].items())
    columns = list(takewhile(lambda key: key != "missing", report["rows"][0]))  # the rest is for JSON alone
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(report["rows"])
    return text.getvalue()


def to_markdown(report: Report) -> str:
    """A page."""
    return "\n".join(_page(report)).rstrip("\n") + "\n"


def _page(report: Report) -> Iterator[str]:
    title, beside = report["title"], "in brackets as published"
    yield from (f"# {title} ({report['scale']})", "", f"`{report['command']}`", "")
    yield from (f"- {key}: {value}" for key, value in {**report["protocol"], **report["models"]}.items())
    yield ""
    for note in report["notes"]:
        yield from (f"> {note}", "")
    if report["scale"] == "mini":
        beside += " for the row it stands for, on other data: the pattern can be compared, the figures cannot"
    yield f"In percent: mean ± standard deviation over runs, or [95 % interval over images]; {beside}."
    yield from ("", *_lines(*figure_table(report)), "", f"![{title}]({report['name']}-{report['scale']}.png)")
    yield from _claims(report)
    if report["figures"]:
        yield from ("", "## Figures", "", *(f"- {line}" for line in figure_lines(report)))
    if report["costs"]:
        yield from ("", "## Cost of the published models", "", "One picture, without the text encoder.", "")
        header = ["model", "size", "GMACs", "published", "M parameters", "published"]
        yield from _lines(header, 2, [[*map(str, cost.values())][:-1] for cost in report["costs"]])
        yield from (f"\n{cost['model']}: {cost['why']}." for cost in report["costs"] if cost["why"])
    yield from _trainings(report)


def _lines(header: Sequence[str], names: int, rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table. names: how many columns hold names; the others are figures, to the right."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---' if i < names else '---:' for i in range(len(header)))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def figure_table(report: Report) -> tuple[list[str], int, list[list[str]]]:
    """Header, how many of its columns hold names, and rows."""
    if report["levels"]:
        return _level_table(report)
    metrics, found = report["metrics"], []
    for place in dict.fromkeys(row["stands_for"] for row in report["rows"]):
        for other in (other for other in report["others"] if other["data"] == place):
            printed = [f"({other[metric]})" if metric in other else "" for metric in metrics]
            found.append([place, other["method"], "", "", "published", *printed])
        for row in (row for row in report["rows"] if row["stands_for"] == place):
            names = [row[key] for key in ("data", "method", "clip", "student")]
            figures = [_cell(row, metric) for metric in metrics]
            found.append([*names, row["missing"] or str(row["runs"]), *figures])
    for mean in report["means"]:
        beside = f" ({mean['published']})" if mean["published"] else ""
        found.append(["mean", mean["method"], mean["clip"], "", "", f"{mean['mIoU']:.2f}{beside}"])
    header = ["data", "method", "CLIP", "student", "runs", *metrics]
    kept = [k for k in range(len(header)) if k > 3 or any(line[k] for line in found)]
    return [header[k] for k in kept], sum(k < 4 for k in kept), [[line[k] for k in kept] for line in found]


def _level_table(report: Report) -> tuple[list[str], int, list[list[str]]]:
    """By model and corruption, with a column for each level."""
    cells = {(row["clip"], row["method"]): _cell(row, "mIoU") for row in report["rows"]}
    kinds = dict.fromkeys(method.rpartition(" ")[0] for _, method in cells if method != CLEAN)
    found = []
    for clip, kind in product(dict.fromkeys(clip for clip, _ in cells), kinds):
        names = [CLEAN, *(f"{kind} {level}" for level in report["levels"])]
        found.append([clip, kind.replace("_", " "), *(cells[clip, name] for name in names)])
    return ["CLIP", "corruption", CLEAN, *(f"level {level}" for level in report["levels"])], 2, found


def _cell(row: Mapping[str, Any], metric: str) -> str:
    mean, spread, beside = (row[metric + suffix] for suffix in ("", " spread", " published"))
    parts = [] if mean is None else [f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")]
    if row["low"] is not None and metric == "mIoU":
        parts.append(f"[{row['low']:.1f}, {row['high']:.1f}]")
    return " ".join([*parts, f"({beside})"] if beside else parts)


def _claims(report: Report) -> Iterator[str]:
    asked = [claim for claim in report["claims"] if claim["held"] is not None]
    if not report["claims"]:
        return
    held = sum(claim["held"] for claim in asked)
    yield from ("", "## Claims", "", f"{held} of {len(asked)} held. {_EXPLANATION}", "")
    rows = [[claim["claim"], "yes" if claim["held"] else "**no**", *_compared(claim)] for claim in asked]
    if rows:
        yield from _lines(["claim", "held", "figures", "difference, 95 % interval"], 3, rows)
    for title, key, chosen in (
        ("Not held:", "why", [claim for claim in asked if not claim["held"]]),
        ("Not measured:", "why", [claim for claim in report["claims"] if claim["held"] is None]),
        ("What was asked, and why:", "rule", [claim for claim in asked if "rule" in claim]),
    ):
        if chosen:
            yield from ("", title, "", *(f"- {claim['claim']}: {claim[key]}" for claim in chosen))
    if report["scale"] == "mini" and report["unlike"] and held < len(asked):
        yield from ("", f"Unlike in the paper: {report['unlike']}")


def _compared(claim: Mapping[str, Any]) -> tuple[str, str]:
    """What was compared, and what decided."""
    figures, (low, high) = claim["figures"], claim["interval"]
    shown = "; ".join(f"{name} {value:.2f}" for name, value in figures.items() if name not in _DECIDING)
    decided = f"{figures['difference']:+.2f} [{low:.2f}, {high:.2f}], > {figures['threshold']:g} asked"
    return shown, decided + (f" (published {figures['published']:+.1f})" if "published" in figures else "")


def figure_lines(report: Report) -> Iterator[str]:
    """Named figures, beside the published ones."""
    for name in report["figures"]:
        beside = report["published_figures"].get(name)
        printed = "" if beside is None else f" (published: {beside:.3f})"
        yield f"{name}: {report['claims_figures'][name]:.3f}{printed}"


def _trainings(report: Report) -> Iterator[str]:
    """How every trained row was made."""
    found, warnings, shared = [], [], report["protocol"]
    for row in report["rows"]:
        if row["command"]:
            minutes = ", ".join(f"{seconds / 60:.1f}" for seconds in row["seconds"])
            training = row["protocol"].get("training", shared.get("training", ""))
            found.append([row["method"], row["data"], f"`{row['command']}`", training, minutes])
        for seed, said in zip(row["seeds"], row["warnings"], strict=False):
            warnings += [f"- {row['recipe']}, seed {seed}: {warning}" for warning in said]
    if found:
        yield from (
            "",
            "## Runs",
            "",
            *_lines(["method", "data", "first run", "training", "minutes"], 4, found),
        )
    if warnings:
        yield from ("", "Said while training, without ground truth:", "", *warnings)
