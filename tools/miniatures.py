"""Writes docs/miniatures.md, every claim of the tables in results/ with its figures: `python -m tools.miniatures`."""

import json
import re
from pathlib import Path
from typing import Any

from denseclip.clip import load_clip
from denseclip.clip.pretrained import EMBEDDED
from denseclip.io import write_text
from tools.measure_keys import measured

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "miniatures.md"
START = """# What the miniatures show

`denseclip reproduce TABLE --scale mini` makes the tables of both papers with the embedded tiny CLIPs on sticker
scenes, on a laptop. The pictures are not those of the papers, so figures cannot be compared, but patterns can:
each table holds the papers' claims against its own figures. This page is made from `results/` by `python -m
tools.miniatures`. *Held* means: above the bound for the worst seeds, or with the whole 95 % interval over
pictures. Nothing was tuned on what is reported: presets, windows and refinement were chosen on scenes of the
training split (`python -m tools.choose_protocol`).
"""
WHY = """## Why some do not hold

- **Key smoothing.** It replaces an unsure position's scores by a vote of all positions, weighted by the cosine of
  their keys. `python -m tools.measure_keys tiny-rn tiny-vit` (50 scenes of the training split): two positions of
  one label have a mean cosine of ONE, two of different labels TWO. The keys do tell labels apart, but not by
  enough for this vote: a thing covers a few percent of its scene, so that the many positions around it, at more
  than half of the weight each, outvote it.
- **Prompt denoising** takes words out that are nowhere likely. On whole pictures it changes little (tiny-rn 49.7 to
  51.6, tiny-vit 52.2 to 52.2 mIoU, `python -m tools.choose_protocol`), in windows it loses three to four points.
- **Last blocks without residual and MLP** (maskclip-reduced, clearclip, naclip, sc-clip): tiny-vit's value path
  was taught with both, and is lost without them. With OpenAI's weights the order is the other way round.
- **DenseCLIP over its baseline.** The tiny CLIPs have seen nothing but such scenes, and the image tower is
  fine-tuned on thousands more with all labels: there is little that words could add. Differences lie within the
  seeds.
"""


def page(results: Path, prints: dict[str, str], keys: tuple[str, str]) -> str:
    """The page as Markdown. prints: {model: first digits of its fingerprint now}. keys: cosines, as text."""
    parts = [START]
    for path in sorted(results.glob("*-mini.json")):
        table = json.loads(path.read_text(encoding="utf-8"))
        if table["claims"]:
            parts.append(_table(table, prints))
    return "\n".join([*parts, WHY.replace("ONE", keys[0]).replace("TWO", keys[1])])


def _table(table: dict[str, Any], prints: dict[str, str]) -> str:
    claims = table["claims"]
    held = sum(bool(claim["held"]) for claim in claims)
    measured = [claim for claim in claims if claim["held"] is not None]
    lines = [f"## {table['title']}", "", f"`{table['command']}`: {held} of {len(measured)} claims held."]
    models = table["models"] or dict.fromkeys(
        ["tiny-rn"], "not noted"
    )  # as earlier tables of trained rows were
    if old := [name for name, now in prints.items() if name in models and now not in models[name]]:
        lines[-1] += (
            f" **Made with earlier weights of {' and '.join(old)}**: its figures are not those of today's."
        )
    lines += ["", "| claim | held | difference | 95 % or worst and best seeds |", "|---|---|---:|---|"]
    for claim in measured:
        low, high = _numbers(claim.get("interval"))
        difference = claim["figures"].get("mean difference", claim["figures"].get("difference"))
        lines.append(
            f"| {claim['claim']} | {'yes' if claim['held'] else '**no**'} | {_signed(difference)} | "
            f"{_signed(low)} to {_signed(high)} |"
        )
    return "\n".join([*lines, ""])


def _numbers(interval: object) -> tuple[float | None, float | None]:
    found = [float(text) for text in re.findall(r"-?[\d.]+", str(interval or ""))]
    return (found[0], found[1]) if len(found) == 2 else (None, None)


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.1f}"


def main() -> None:
    """Write the page."""
    prints = {name: load_clip(name).fingerprint[:12] for name in EMBEDDED}
    pairs = [measured(name) for name in EMBEDDED]
    one, two = (
        " and ".join(f"{pair[k]:.2f} ({name})" for name, pair in zip(EMBEDDED, pairs, strict=True))
        for k in (0, 1)
    )
    write_text(PAGE, page(ROOT / "results", prints, (one, two)))


if __name__ == "__main__":
    main()
