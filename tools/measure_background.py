"""How honest the background of generic words is: `python -m tools.measure_background --model tiny-rn --split val`.

On sticker scenes. For each picture: a thing that is there, asked for alone, and its IoU against that of the same word
among all of the picture's words; and words that are not there.
"""

import argparse
import json
from collections import defaultdict

import numpy as np

import denseclip
from denseclip.data.opening import open_dataset
from denseclip.data.sticker_sets import StickerDataset
from denseclip.data.stickers import Scene, sprite_names
from denseclip.loading import make_settings
from denseclip.segment.segmenter import Encoded

SEEN = 0.005  # share of the picture from which a word counts as there, and as found


def main() -> None:
    """Print a JSON line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny-rn")
    parser.add_argument("--preset", default="auto")
    parser.add_argument("--resize", default="none")
    parser.add_argument("--split", default="train", choices=("train", "val"))
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--absent", type=int, default=2, help="absent words a picture")
    given = parser.parse_args()
    model = denseclip.load(given.model, ["cat"], preset=given.preset, resize=given.resize, precision="fp32")
    print(json.dumps(vars(given) | measure(model, given.split, given.scenes, given.absent)), flush=True)


def measure(model: denseclip.Segmenter, split: str, scenes: int, absent: int) -> dict[str, float]:
    """Means over scenes, in percent: IoU alone and among all words, precision, recall, false area."""
    rng, common = np.random.default_rng(0), sprite_names(common=True)
    dataset = open_dataset("stickers135", None, split)
    assert isinstance(dataset, StickerDataset)
    sums: dict[str, list[float]] = defaultdict(list)
    counts = {"there and found": 0, "there": 0, "not there but found": 0, "not there": 0}
    for index in range(min(scenes, len(dataset))):
        scene = dataset.scene(index)
        encoded = model.encode(scene.image)
        names = np.array(scene.names)
        shown = [
            word
            for word in dict.fromkeys(scene.names)
            if word in common and _truth(scene, word).mean() > SEEN
        ]
        if shown:
            word = str(rng.choice(shown))
            truth = _truth(scene, word)
            alone = _mask(model, encoded, [word], word, "auto")
            among = _mask(model, encoded, list(dict.fromkeys(scene.names)), word, "none")
            sums["IoU alone"].append(_iou(alone, truth))
            sums["IoU among all words"].append(_iou(among, truth))
            counts["there"] += 1
            counts["there and found"] += bool(alone.mean() > SEEN)
        for word in rng.choice([one for one in common if one not in names], absent, replace=False):
            area = float(_mask(model, encoded, [str(word)], str(word), "auto").mean())
            sums["false area"].append(area)
            sums["pictures with over 20 % false"].append(area > 0.2)
            counts["not there"] += 1
            counts["not there but found"] += area > SEEN
    found = counts["there and found"] + counts["not there but found"]
    figures = {name: round(100 * float(np.mean(values)), 2) for name, values in sums.items()}
    figures["presence recall"] = round(100 * counts["there and found"] / max(1, counts["there"]), 2)
    figures["presence precision"] = round(100 * counts["there and found"] / max(1, found), 2)
    return figures | counts


def _truth(scene: Scene, word: str) -> np.ndarray:
    return np.array([name == word for name in scene.names])[scene.labels]


def _mask(model: denseclip.Segmenter, encoded: Encoded, words: list[str], word: str, rule: str) -> np.ndarray:
    settings = make_settings(background=rule)
    if model.settings.background != settings.background:
        model.configure(background=settings.background)
    model.set_classes(words)
    result = model.segment(encoded)
    return result.mask == result.classes.index(word)


def _iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


if __name__ == "__main__":
    main()
