"""The files of a table with trained rows, alone or together with its rows without training."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from denseclip.evaluate.reproduce import figures as free_figures
from denseclip.evaluate.reproduce import markdown
from denseclip.evaluate.reproduce.report import Report
from denseclip.evaluate.reproduce.trained import figures, page
from denseclip.evaluate.reproduce.trained.report import TrainedReport
from denseclip.io import write_text


def write(report: TrainedReport, free: Report | None, out: Path) -> None:
    """Write NAME-SCALE.md, .csv, .json and .png. free: the table's rows without training."""
    stem = report.stem
    figures.draw(report, out / f"{stem}.png")
    if free is None:
        texts = {"csv": report.to_csv(), "json": report.to_json(), "md": page.page(report, [f"{stem}.png"])}
    else:
        drawn = f"{stem}-training-free.png"
        free_figures.draw(free, out / drawn)
        texts = {
            "csv": "\n".join([report.to_csv(), free.to_csv()]),
            "json": json.dumps(merged(report, free), indent=1, ensure_ascii=False) + "\n",
            "md": "\n".join(_page(report, free, drawn)).rstrip("\n") + "\n",
        }
    for suffix, text in texts.items():
        write_text(out / f"{stem}.{suffix}", text)


def merged(report: TrainedReport, free: Report) -> dict[str, Any]:
    """Rows, claims and figures of both; `protocol` is of the trained rows, `training_free` says what else is of
    the others.
    """
    mine, theirs = report.content(), json.loads(free.to_json())
    for key in ("rows", "claims"):
        mine[key] += theirs[key]
    mine["claims_figures"] |= theirs["claims_figures"]
    others = ("title", "command", "protocol", "models", "notes")
    return mine | {"training_free": {key: theirs[key] for key in others}}


def _page(report: TrainedReport, free: Report, drawn: str) -> Iterator[str]:
    whole = page.page(report, [f"{report.stem}.png"]).splitlines()
    rest = markdown.page(free, [drawn]).splitlines()
    yield from whole
    yield ""
    for line in rest:  # one level down, under the title of the table
        yield f"#{line}" if line.startswith("#") else line
