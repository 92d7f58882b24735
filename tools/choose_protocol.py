"""Which last block, windows and refinement serve a model best, on scenes of the training split.

    python -m tools.choose_protocol tiny-vit [--limit 100] [--out runs/choice/tiny-vit.json]

Defaults are chosen by this table only: the split that figures are reported on takes no part. With --out, rows that
are in the file already are not measured again.
"""

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any

from denseclip.data.opening import open_dataset
from denseclip.errors import UserError
from denseclip.evaluate.run import evaluate, segmenter_for
from denseclip.io import write_text
from denseclip.segment.settings import PRESETS, Refinement, Slide, preset

Row = dict[str, Any]  # preset, windows, refine, mIoU and pAcc in percent, seconds per scene
LINE = "{preset:18} {windows:8} {refine:8} {mIoU:>6} {pAcc:>6} {seconds:>7}"


def measure(options: argparse.Namespace) -> list[Row]:
    """One row for each preset, windows and refinement that go with the model, in fp32, best first."""
    dataset = open_dataset(options.data, split="train")
    segmenter = segmenter_for(dataset.spec, options.model, precision="fp32")
    data = f"{options.data}/train"
    content: Row = {"weights": segmenter.clip.fingerprint[:12], "data": data, "scenes": options.limit}
    rows: list[Row] = []
    if options.out and options.out.exists():
        earlier = json.loads(options.out.read_text(encoding="utf-8"))
        rows = earlier.pop("rows")
        if earlier != content:
            raise UserError(f"{options.out} holds figures of other weights or scenes; give another --out")
    for name, windows, refine in product(options.presets, options.windows, options.refine):
        row: Row = {"preset": name, "windows": windows, "refine": refine}
        if any(row.items() <= known.items() for known in rows):
            continue
        slide = None if windows == "whole" else Slide.parse(windows)
        dense, refinement = preset(name), Refinement.parse(refine)
        try:
            segmenter.configure(dense=dense, slide=slide, refine=refinement)
        except UserError as error:  # such as a ResNet's preset for a ViT
            print(error, flush=True)
            continue
        result = evaluate(segmenter, dataset, limit=options.limit)
        figures = result.summary() | {"seconds": result.seconds / result.images}
        rows.append(row | {key: round(figures[key], 2) for key in ("mIoU", "pAcc", "seconds")})
        print(LINE.format(**rows[-1]), flush=True)
        if options.out:
            write_text(options.out, json.dumps(content | {"rows": rows}, indent=1) + "\n")
    return sorted(rows, key=lambda row: -row["mIoU"])


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="tools.choose_protocol", description=__doc__)
    parser.add_argument("model", help="as for `denseclip evaluate`")
    parser.add_argument("--data", default="stickers135")
    parser.add_argument("--limit", type=int, default=100, help="scenes of the training split")
    parser.add_argument("--presets", nargs="+", default=list(PRESETS))
    parser.add_argument("--windows", nargs="+", default=["whole", "128/64", "192/96"], help="or CROP/STRIDE")
    parser.add_argument("--refine", nargs="+", default=["none", "pd"])
    parser.add_argument("--out", type=Path, help="file of the rows")
    try:
        rows = measure(parser.parse_args(arguments))
    except UserError as error:
        parser.error(str(error))
    print("\n" + LINE.format_map({key: key for key in rows[0]}) if rows else "nothing to compare")
    print("\n".join(LINE.format(**row) for row in rows))


if __name__ == "__main__":
    main()
