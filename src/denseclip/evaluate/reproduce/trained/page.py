"""A table with trained rows as a page."""

from collections.abc import Iterator, Sequence

from denseclip.evaluate.reproduce.claims import Claim
from denseclip.evaluate.reproduce.markdown import table_lines
from denseclip.evaluate.reproduce.trained.costs import cost_section
from denseclip.evaluate.reproduce.trained.report import TrainedLine, TrainedReport

EXPLANATION = (
    "The least favourable seeds are compared: the worst of what should be higher with the best of what should be "
    "lower. Where all trained rows have several seeds, that difference has to pass the threshold; where one has a "
    "single seed, its 95 % interval from 2000 times resampled images has to. Thresholds were fixed before any "
    "figure was known."
)
_DECIDING = ("mean difference", "difference", "threshold", "published")


def page(report: TrainedReport, figures: Sequence[str]) -> str:
    """The report in Markdown. figures: names of picture files beside it."""
    return "\n".join(_lines(report, figures)).rstrip("\n") + "\n"


def _lines(report: TrainedReport, figures: Sequence[str]) -> Iterator[str]:
    yield from (f"# {report.table.title} ({report.scale})", "", f"`{report.command}`", "")
    yield from (f"- {key}: {value}" for key, value in report.protocol.items())
    yield ""
    yield from body(report, figures)


def body(report: TrainedReport, figures: Sequence[str]) -> Iterator[str]:
    """Everything below title and protocol."""
    for note in report.notes:
        yield from (f"> {note}", "")
    yield from (_caption(report), "")
    header = ["data", "method", "teacher", "student", "runs", *report.table.metrics]
    yield from table_lines(header, list(_rows(report)), names=4)
    for name in figures:
        yield from ("", f"![{report.table.title}]({name})")
    yield from _claims(report)
    yield from _ratios(report)
    yield from cost_section(report.table.costs)
    yield from ("", "## Runs", "", *_runs(report))


def _caption(report: TrainedReport) -> str:
    beside = "in brackets as published"
    if report.scale == "mini":
        beside += " for the row it stands for, on other data: the pattern can be compared, the figures cannot"
    return f"In percent, mean ± standard deviation over runs; {beside}."


def _rows(report: TrainedReport) -> Iterator[list[str]]:
    metrics = report.table.metrics
    for data in dict.fromkeys(line.row.data for line in report.lines):
        lines = [line for line in report.lines if line.row.data == data]
        for (where, method), values in report.others.items():
            if where == data:
                cells = [f"({values[metric]})" if metric in values else "" for metric in metrics]
                yield [data, method, "", "", "published", *cells]
        for line in lines:
            runs = line.missing or str(len(line.made))
            cells = [_cell(line, metric) for metric in metrics]
            yield [line.data, line.row.method, line.teacher, line.student, runs, *cells]


def _cell(line: TrainedLine, metric: str) -> str:
    mean, spread, beside = line.mean(metric), line.spread(metric), line.published.get(metric)
    parts = [] if mean is None else [f"{mean:.2f}" + ("" if spread is None else f" ± {spread:.2f}")]
    return " ".join(parts + ([f"({beside})"] if beside else []))


def _claims(report: TrainedReport) -> Iterator[str]:
    if not (report.claims or report.open):
        return
    held = sum(claim.held for claim in report.claims)
    yield from ("", "## Claims", "", f"{held} of {len(report.claims)} held. {EXPLANATION}", "")
    rows = [[claim.claim, "yes" if claim.held else "**no**", *_figures(claim)] for claim in report.claims]
    if rows:
        yield from table_lines(["claim", "held", "means", "difference, threshold, interval"], rows, names=3)
    for title, lines in (
        ("Not held:", [f"- {claim.claim}: {claim.why}" for claim in report.claims if not claim.held]),
        (
            "Not measured, as rows are not made yet:",
            [f"- {text}: {', '.join(names)}" for text, names in report.open],
        ),
        ("What was asked, and why:", [f"- {claim.claim}: {claim.rule}" for claim in report.claims]),
    ):
        if lines:
            yield from ("", title, "", *lines)
    if report.scale == "mini" and report.table.unlike and not all(claim.held for claim in report.claims):
        yield from ("", f"Unlike in the paper: {report.table.unlike}")


def _figures(claim: Claim) -> tuple[str, str]:
    shown = "; ".join(f"{name} {value:.2f}" for name, value in claim.figures.items() if name not in _DECIDING)
    low, high = claim.interval
    figures = claim.figures
    sign = ">" if figures["difference"] > figures["threshold"] else "≤"
    decided = f"{figures['difference']:+.2f} {sign} {figures['threshold']:g} [{low:.2f}, {high:.2f}]"
    return shown, decided + (f" (published {figures['published']:+.1f})" if "published" in figures else "")


def _ratios(report: TrainedReport) -> Iterator[str]:
    if report.ratios:
        yield from ("", "## Figures", "")
    for name, (value, beside) in report.ratios.items():
        yield f"- {name}: {value:.3f}" + ("" if beside is None else f" (published: {beside:.3f})")


def _runs(report: TrainedReport) -> Iterator[str]:
    """How every row was made."""
    rows, warnings = [], []
    for line in report.lines:
        if line.row.teacher:
            continue
        steps, batch = line.recipe.steps, line.recipe.batch
        minutes = ", ".join(f"{made.seconds / 60:.1f}" for made in line.made)
        rows.append([line.row.method, line.data, f"`{line.command}`", f"{steps} x {batch}", minutes])
        for made in line.made:
            warnings += [f"- {made.run.title}: {warning}" for warning in made.warnings]
    header = ["method", "data", "first run", "steps x images", "minutes"]
    yield from table_lines(header, rows, names=3)
    if warnings:
        yield from ("", "Said while training, without ground truth:", "", *warnings)
