"""Two models on the same images, side by side."""

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from denseclip.errors import UserError
from denseclip.evaluate.bootstrap import Difference, paired_bootstrap
from denseclip.evaluate.result import Result


@dataclass(frozen=True)
class Comparison:
    """Two results and the differences of their mIoU, first minus second, by group: "mIoU", and with unseen
    classes "mIoU(S)" and "mIoU(U)"; fractions, with the 95 % interval over images.
    """

    first: Result
    second: Result
    differences: dict[str, Difference]

    def class_rows(self) -> list[tuple[str, float, float]]:
        """Name and IoU of either model in percent, for every class."""
        pairs = zip(self.first.table(), self.second.table(), strict=True)
        return [(a.name, a.iou, b.iou) for a, b in pairs]

    def to_json(self) -> str:
        """JSON with both summaries (percent) and the differences (percentage points)."""
        content = {
            "models": [result.protocol.describe() for result in (self.first, self.second)],
            "summaries": [
                {name: round(value, 2) for name, value in result.summary().items()}
                for result in (self.first, self.second)
            ],
            "differences": {
                name: {
                    "value": round(one.miou * 100, 2),
                    "low": round(one.low * 100, 2),
                    "high": round(one.high * 100, 2),
                    "significant": one.significant,
                }
                for name, one in self.differences.items()
            },
        }
        return json.dumps(content, indent=1) + "\n"

    def to_csv(self) -> str:
        """CSV with the IoU of every class under both models."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["class", "first", "second"])
        for name, *values in self.class_rows():
            writer.writerow([name, *("" if math.isnan(value) else f"{value:.2f}" for value in values)])
        return text.getvalue()


def compare(first: Result, second: Result) -> Comparison:
    """Compare two results on the same images; raises UserError if they are not."""
    one, two = first.protocol, second.protocol
    for what in ("data", "split", "images", "contents", "corruption"):
        if getattr(one, what) != getattr(two, what):
            raise UserError(
                f"the two results are not of the same images (other {what}): evaluate both models in one call"
            )
    if first.skipped != second.skipped:
        raise UserError("the two models skipped different images: repair those, then evaluate both again")
    groups: dict[str, Sequence[int] | None] = {"mIoU": None}
    if first.seen and first.unseen:
        groups |= {"mIoU(S)": first.seen, "mIoU(U)": first.unseen}
    return Comparison(
        first,
        second,
        {
            name: paired_bootstrap(first.matrix.per_image, second.matrix.per_image, classes=classes)
            for name, classes in groups.items()
        },
    )
