"""`denseclip segment`: pictures and words in, masks out; `denseclip demo`: a first look at it, offline."""

from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.segment.engine import Engine, Spread
    from denseclip.segment.segmentation import Segmentation
    from denseclip.segment.segmenter import Segmenter
import shlex

Pictures = Annotated[
    list[str], typer.Argument(help="Files, folders (searched in depth) or globs.", show_default=False)
]
SHEET = "contact-sheet.jpg"
Found = tuple[dict[str, int], float]  # the area of each class, and the mean confidence


@o.command(
    *("classes", "model", "out", "limit", "heatmaps", "overwrite", "device", "devices"),
    *("precision", *o.METHOD),
)
def segment(pictures: Pictures, **options: Unpack[o.Options]) -> o.Done[Path]:
    """Segment pictures by words, or with a trained model.

    For each picture: PICTURE.png (mask, pixel values are the ids of classes.json) and PICTURE-overlay.png; of several
    also contact-sheet.jpg; in runs/segment unless --out says otherwise. Pictures that cannot be read are listed at
    the end, and the exit code is 1.
    """
    given = o.values(options)
    from denseclip.data.images import list_images, unread_in
    from denseclip.outputs import OutputFolder
    from denseclip.segment.engine import Spread
    from denseclip.segment.segmentation import heat_suffixes

    out, heatmaps, overwrite = given["out"] or Path("runs/segment"), given["heatmaps"], given["overwrite"]
    chosen = o.ModelOptions.of(options)
    places = o.spread(given["devices"], given["device"])
    chosen = replace(chosen, device=places[0]) if places else chosen
    segmenter = chosen.load()
    suffixes = [".png", "-overlay.png", *(heat_suffixes(segmenter.embeddings.classes) if heatmaps else ())]
    with OutputFolder(out, "segment", chosen.identity(), overwrite=overwrite) as output:
        paths = list_images(pictures)[: given["limit"]]
        named = list(zip(paths, output.names(paths, suffixes), strict=True))
        files = {stem: [out / f"{stem}{suffix}" for suffix in suffixes] for _, stem in named}
        done = {stem for stem, made in files.items() if all(output.has(file) for file in made)}
        if output.finished and done and not overwrite:
            there = next(files[stem][0] for _, stem in named if stem in done)
            raise UserError(f"{there} is there already; add --overwrite or give another --out")
        done = set() if output.finished else done
        own = [out / "classes.json", out / SHEET]
        output.refuse_foreign([*(file for made in files.values() for file in made), *own])
        output.begin()
        todo = [(path, stem) for path, stem in named if stem not in done]
        start = partial(_engine_on, chosen, out, heatmaps)
        engine = Spread(start, places) if places else _engine(segmenter, out, heatmaps)
        areas, sure, failed = _run(engine, todo)
        sheet = _contact_sheet(
            out, [stem for _, stem in named if output.has(files[stem][1])], segmenter.classes
        )
        if not failed:
            output.finish()
    if done:
        o.say(f"{len(done)} were there from the run before.")
    _summary(areas, len(todo) - len(failed), segmenter.classes, out)
    if len(sure) > 1:
        o.say(f"Least confident: {', '.join(f'{stem} ({value:.2f})' for value, stem in sorted(sure)[:3])}")
    if sheet:
        o.say(f"Look at {sheet}.")
    o.say(f"ran in {segmenter.machine}")
    for line in failed:
        o.told("skipped", line)
    o.tell_unread(unread_in(pictures))
    if sure:
        o.say(
            f"Next: denseclip label PICTURES with the same options makes a data set; classes are in {own[0]}."
        )
    total = sum(areas.values())
    shares = {name: round(count / total, 6) for name, count in areas.most_common()}
    made = [file for _, stem in named for file in files[stem] if output.has(file)]
    least = [{"picture": stem, "confidence": round(value, 4)} for value, stem in sorted(sure)[:100]]
    figures = {"pictures": len(sure), "kept": len(done), "least_confident": least}
    return o.Done(out, [*made, own[0]], segmenter.classes, shares, figures, failed)


def _engine(segmenter: "Segmenter", out: Path, heatmaps: bool) -> "Engine[Any, Any, Any, Found]":
    """From a picture and the name of its files to what is found, once they are written."""
    import numpy as np

    from denseclip.label.words import coarse_confidence
    from denseclip.segment.engine import Engine, default_batch

    def finish(item: tuple[Path, str], arrive: "Callable[[], Segmentation]") -> Found:
        result = arrive()
        result.save(out, item[1], heatmaps=heatmaps)
        known = result.confidence
        sure = coarse_confidence(segmenter, result) if known is None else known
        return result.areas, float(sure.mean(dtype=np.float64))

    batch = default_batch(segmenter.clip.device)
    return Engine(lambda item: segmenter.ready(item[0]), segmenter.begin, finish, batch)


def _engine_on(
    options: o.ModelOptions, out: Path, heatmaps: bool, device: str
) -> "Engine[Any, Any, Any, Found]":
    return _engine(replace(options, device=device).load(), out, heatmaps)


def _run(
    engine: "Engine[Any, Any, Any, Found] | Spread[Any, Found]",
    named: list[tuple[Path, str]],
) -> tuple[Counter[str], list[tuple[float, str]], list[str]]:
    """Segment and write; returns the area per class, each picture's confidence, a line for each that failed."""
    areas: Counter[str] = Counter()
    sure, failed = [], []
    with o.picture_progress() as progress, closing(engine.run(named)) as results:
        task = progress.add_task("segmenting", total=len(named))
        for (_, stem), one in results:
            if isinstance(one, UserError):
                failed.append(str(one))
            else:
                areas.update(one[0])
                sure.append((one[1], stem))
            progress.advance(task)
    return areas, sure, failed


def _contact_sheet(out: Path, stems: list[str], classes: tuple[str, ...]) -> Path | None:
    """Some of the overlays that are there on one sheet; None of fewer than two."""
    import numpy as np
    from PIL import Image

    from denseclip.io import atomic_path
    from denseclip.segment import paint

    tiles, shares, captions = [], np.zeros(len(classes)), [stems[k] for k in paint.spread(len(stems))]
    if len(captions) < 2:
        return None
    for stem in captions:
        with Image.open(out / f"{stem}.png") as mask, Image.open(out / f"{stem}-overlay.png") as overlay:
            tiles.append(overlay.crop((0, 0, *mask.size)).convert("RGB"))  # without its legend
            shares += np.bincount(np.asarray(mask).ravel(), minlength=len(classes))[: len(classes)]
            tiles[-1].thumbnail((paint.SIDE, paint.SIDE))
    with atomic_path(out / SHEET) as temporary:
        paint.overview(tiles, captions, classes, shares / shares.sum()).save(temporary, quality=90)
    return out / SHEET


def _summary(areas: Counter[str], done: int, classes: tuple[str, ...], out: Path) -> None:
    if not done:
        return
    total = sum(areas.values())
    table = Table(title=f"{done} picture{'s' * (done != 1)} in {out}")
    table.add_column("class")
    table.add_column("area", justify="right")
    table.add_column("")
    for name, pixels in areas.most_common(20):
        share = pixels / total
        table.add_row(name, f"{share:6.1%}", "█" * round(30 * share))
    o.console.print(table)
    absent = len(classes) - len(areas)
    if absent:
        o.say(f"{absent} of {len(classes)} classes were not found.")


SPLIT = "demo"
SIDE = 448
DISTRACTORS = ("cat", "dog", "bird", "car", "apple", "fish", "water", "brick wall", "sky", "snow")


@o.command("out", "model", "overwrite", "scenes")
def demo(**options: Unpack[o.Options]) -> o.Done[Path]:
    """Draw example pictures, segment them by words, and say where the results are.

    They are in runs/demo unless --out says otherwise.
    """
    given = o.values(options)
    out, model = given["out"] or Path("runs/demo"), given["model"]
    from PIL import Image

    from denseclip.data.stickers import render
    from denseclip.io import atomic_path
    from denseclip.outputs import OutputFolder

    words: dict[str, None] = {}
    pictures = []
    drawn = OutputFolder(out / "pictures", "demo")
    for number in o.parse_numbers(given["scenes"]):
        scene = render(SPLIT, number, side=SIDE)
        words |= dict.fromkeys(scene.names)
        pictures.append(out / "pictures" / f"scene-{number}.jpg")
        with drawn, atomic_path(pictures[-1]) as temporary:
            drawn.begin()
            Image.fromarray(scene.image).save(temporary, quality=92)
    classes = ", ".join(dict.fromkeys((*words, *DISTRACTORS)))
    names = [str(path) for path in pictures]
    command = ["denseclip", "segment", *names, "--model", model, "--classes", classes, "--out", str(out)]
    o.say(f"$ {shlex.join(command)}")
    done = segment.function(names, classes=classes, model=model, out=out, overwrite=given["overwrite"])
    o.say(f"Look at {out}/scene-*-overlay.png (the pictures themselves are in {out}/pictures).")
    return done
