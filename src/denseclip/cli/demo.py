"""`denseclip demo`: a first look, offline, with an embedded tiny CLIP."""

import shlex
from pathlib import Path
from typing import Unpack

from denseclip.cli import options as o
from denseclip.cli.segment import segment

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
