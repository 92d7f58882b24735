"""Whether keys tell things apart, which key smoothing needs: `python -m tools.measure_keys tiny-rn tiny-vit`.

For scenes of the training split: the mean cosine of the last attention's keys at two positions of one label, and of
two labels. A position that takes part in a vote is weighted by that cosine.
"""

import argparse
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import denseclip
from denseclip.data.opening import open_dataset


def measure(model: denseclip.Segmenter, scenes: int, data: str = "stickers59") -> tuple[float, float]:
    """Mean cosines between keys of positions with the same label, and with different ones."""
    same, different = [], []
    for entry in islice(open_dataset(data, split="train"), scenes):
        features = model.encode(entry.image).features[0]
        assert features.keys is not None
        keys = F.normalize(features.keys[0], dim=-1)  # (hw, E)
        labels = _at(entry.mask, (features.map.shape[2], features.map.shape[3]))
        cosines = keys @ keys.T  # (hw, hw)
        alike = labels[:, None] == labels
        others = ~torch.eye(len(keys), dtype=torch.bool)
        same.append(float(cosines[alike & others].mean()))
        if not alike.all():
            different.append(float(cosines[~alike].mean()))
    return float(np.mean(same)), float(np.mean(different))


def _at(labels: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """(H, W) labels -> (hw,): the label in the middle of each cell."""
    (height, width), (h, w) = labels.shape, grid
    rows, columns = (np.arange(h) + 0.5) * height / h, (np.arange(w) + 0.5) * width / w
    return torch.from_numpy(labels[rows.astype(int)][:, columns.astype(int)].astype(np.int64).ravel())


def measured(name: str, scenes: int = 50) -> tuple[float, float]:
    """`measure` of a model by name, on whole pictures in fp32."""
    model = denseclip.load(
        name, ["cat"], preset="maskclip", refine="ks", resize="none", slide=None, precision="fp32"
    )
    return measure(model, scenes)


def main() -> None:
    """Print a line a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--scenes", type=int, default=50)
    given = parser.parse_args()
    print("model      one label  two labels")
    for name in given.models:
        same, different = measured(name, given.scenes)
        print(f"{name:10} {same:9.2f} {different:11.2f}", flush=True)


if __name__ == "__main__":
    main()
