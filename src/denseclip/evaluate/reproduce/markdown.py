"""A reproduced table as a page."""

from collections.abc import Iterator, Sequence

from denseclip.evaluate.reproduce.claims import Claim
from denseclip.evaluate.reproduce.report import Line, Report
from denseclip.recipes import CLEAN

EXPLANATION = (
    "A claim is held if the 95 % interval of its difference, from 2000 times resampled images, lies above zero; "
    "a fall with the level, if that holds for clean against the strongest level and no level is surely above the "
    "one before it. Chance is the mIoU of guessing every class equally often."
)


def page(report: Report, figures: Sequence[str]) -> str:
    """The report in Markdown. figures: names of picture files beside it."""
    return "\n".join(_lines(report, figures)).rstrip("\n") + "\n"


def _lines(report: Report, figures: Sequence[str]) -> Iterator[str]:
    yield from (f"# {report.recipe.title} ({report.scale})", "", f"`{report.command}`", "")
    yield from (f"- {key}: {value}" for key, value in report.protocol.items())
    yield from (f"- {model}: {details}" for model, details in report.models.items())
    yield from (f"- {data}: {text}" for data, text in _data(report.lines))
    yield ""
    for note in report.notes:
        yield from (f"> {note}", "")
    yield from _by_level(report) if report.recipe.levels else _by_data(report)
    for name in figures:
        yield from ("", f"![{report.recipe.title}]({name})")
    if report.claims:
        yield from ("", *_claims(report))


def _data(lines: Sequence[Line]) -> list[tuple[str, str]]:
    found = {}
    for line in lines:
        resize = line.protocol.get("resize")
        found[line.row.data] = f"{line.images} images" + (f", resize {resize}" if resize else "")
    return list(found.items())


def table_lines(header: Sequence[str], rows: Sequence[Sequence[str]], names: int = 1) -> Iterator[str]:
    """A table. names: how many columns hold names; the others are figures, to the right."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---' if i < names else '---:' for i in range(len(header)))}|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _by_data(report: Report) -> Iterator[str]:
    cells = {(line.row.model, line.row.method.name, line.row.data): _cell(line) for line in report.lines}
    for mean in report.means():
        beside = f" ({mean['published']})" if mean["published"] else ""
        cells[mean["model"], mean["method"], "mean"] = f"{mean['mIoU']:.2f}{beside}"
    data = list(dict.fromkeys(key[2] for key in cells))
    rows = [
        [model, method, *(cells.get((model, method, name), "") for name in data)]
        for model, method in dict.fromkeys(key[:2] for key in cells)
    ]
    yield from (_caption(report), "", *table_lines(["model", "method", *data], rows, names=2))


def _by_level(report: Report) -> Iterator[str]:
    cells = {(x.row.model, x.row.data, x.row.method.name): _cell(x, interval=False) for x in report.lines}
    kinds = dict.fromkeys(
        line.row.method.corruption[0] for line in report.lines if line.row.method.corruption
    )
    rows = [
        [
            model,
            kind.replace("_", " "),
            *(cells.get((model, data, name), "") for name in _names(report, kind)),
        ]
        for model, data in dict.fromkeys(key[:2] for key in cells)
        for kind in kinds
    ]
    levels = [f"level {level}" for level in report.recipe.levels]
    header = ["model", "corruption", CLEAN, *levels]
    yield from (_caption(report), "", *table_lines(header, rows, names=2))


def _names(report: Report, kind: str) -> list[str]:
    return [CLEAN, *(f"{kind} {level}" for level in report.recipe.levels)]


def _caption(report: Report) -> str:
    if report.scale == "paper":
        return "mIoU in percent, in brackets as published."
    return "mIoU in percent" + ("." if report.recipe.levels else ", with its 95 % interval over images.")


def _cell(line: Line, *, interval: bool = True) -> str:
    if line.row.published:
        return f"{line.miou:.2f} ({line.row.published.value})"
    if interval:
        return f"{line.miou:.2f} [{line.low:.1f}, {line.high:.1f}]"
    return f"{line.miou:.2f}"


def _claims(report: Report) -> Iterator[str]:
    held = sum(claim.held for claim in report.claims)
    yield from ("## Claims", "", f"{held} of {len(report.claims)} held. {EXPLANATION}", "")
    rows = [[claim.claim, "yes" if claim.held else "**no**", *_figures(claim)] for claim in report.claims]
    yield from table_lines(["claim", "held", "mIoU", "difference, 95 % interval"], rows, names=3)
    reasons = [f"- {claim.claim}: {claim.why}" for claim in report.claims if not claim.held]
    if reasons:
        yield from ("", "Not held:", "", *reasons)
        if report.scale == "mini" and report.recipe.unlike:
            yield from ("", f"Unlike in the paper: {report.recipe.unlike}")


def _figures(claim: Claim) -> tuple[str, str]:
    shown = "; ".join(f"{name} {value:.2f}" for name, value in claim.figures.items() if name != "difference")
    low, high = claim.interval
    return shown, f"{claim.figures['difference']:+.2f} [{low:.2f}, {high:.2f}]"
