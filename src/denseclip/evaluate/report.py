"""What an evaluation leaves in a folder."""

import csv
import io
import math
from pathlib import Path

from denseclip.errors import UserError
from denseclip.evaluate.confusion import draw_confusion
from denseclip.evaluate.result import Result
from denseclip.io import write_text

RESULT, CLASSES, CONFUSION, EXAMPLES = "result.json", "classes.csv", "confusion.png", "examples.png"
STATE = "counts.pt"  # where an interrupted evaluation continues


def need_matplotlib() -> None:
    """Raise UserError if figures cannot be drawn."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise UserError("figures need matplotlib: pip install 'denseclip[evaluate]'") from None


def write_report(result: Result, folder: Path) -> None:
    """Write result.json, classes.csv and confusion.png; the same bytes for the same result."""
    write_text(folder / RESULT, result.to_json())
    write_text(folder / CLASSES, to_csv(result))
    draw_confusion(result, folder / CONFUSION)


def to_csv(result: Result) -> str:
    """CSV with one line a class, percent with two decimals, empty where a class does not occur."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["class", "group", "IoU", "accuracy", "precision", "pixels"])
    for row in result.table():
        figures = (row.iou, row.accuracy, row.precision)
        shown = ("" if math.isnan(value) else f"{value:.2f}" for value in figures)
        writer.writerow([row.name, "unseen" if row.unseen else "seen", *shown, row.pixels])
    return text.getvalue()
