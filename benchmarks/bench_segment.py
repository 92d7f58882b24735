"""The whole pipeline, from a picture in memory to a mask: RN50 shape, 512 x 512, 171 classes, random weights.

Reference: plain eager fp32, encode + F.interpolate + argmax. Ours: `Segmenter.segment` in the precision that
`--precision auto` picks on this machine.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from denseclip.clip import load_clip
from denseclip.clip.device import pick_dtype
from denseclip.dense.features import DenseEncoder
from denseclip.dense.load import make_settings
from denseclip.dense.segmenter import Segmenter
from denseclip.vocabulary import ClassEmbeddings

SIDE, CLASSES, ROUNDS = 512, 171, 5


def random_rn50(folder: Path) -> Path:
    """An RN50-shaped checkpoint with random values: speed does not depend on them."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.create_model("RN50", pretrained=None)
    path = folder / "rn50.pt"
    torch.save(model.state_dict(), path)
    return path


def embeddings_near(features: torch.Tensor) -> ClassEmbeddings:
    """171 unit vectors around the features of the picture, so that scores look like a real model's."""
    flat = features.flatten(2)[0].T  # (hw, D)
    torch.manual_seed(1)
    picked = flat[torch.randint(len(flat), (CLASSES,))] + 0.02 * torch.randn(CLASSES, flat.shape[1])
    names = tuple(f"class {i}" for i in range(CLASSES))
    return ClassEmbeddings(F.normalize(picked, dim=-1), torch.arange(CLASSES), names)


def run() -> dict[str, float]:
    """Ratio of images/s, ours over the reference, median of interleaved rounds."""
    with tempfile.TemporaryDirectory() as folder:
        clip = load_clip(random_rn50(Path(folder)), config={"quick_gelu": True})
    dtype = pick_dtype("auto", clip.device)
    settings = make_settings(resize="none", templates="1")
    ours = Segmenter(clip.to(dtype=dtype), None, settings)
    plain = DenseEncoder(clip, compat=settings.compat)
    image = smooth_picture()
    embeddings = embeddings_near(plain.encode(normalised(ours, image)).map)
    ours._embeddings = embeddings  # what set_classes would have computed
    ours._ontology = _ontology(embeddings)

    def reference() -> np.ndarray:
        dense = plain.encode(normalised(ours, image))
        scores = plain.scores(dense, embeddings.matrix)
        return F.interpolate(scores, (SIDE, SIDE), mode="bilinear").argmax(1)[0].numpy()

    times: dict[str, list[float]] = {"reference": [], "ours": []}
    for _ in range(ROUNDS + 1):
        for name, way in (("reference", reference), ("ours", lambda: ours.segment(image).mask)):
            start = time.perf_counter()
            mask = way()
            times[name].append(time.perf_counter() - start)
            if name == "reference":
                expected = mask
    ratio = statistics.median(a / b for a, b in zip(times["reference"][1:], times["ours"][1:], strict=True))
    agreement = float((mask == expected).mean())
    print(
        f"  {dtype}: masks agree on {agreement:.2%} of pixels, {1 / statistics.median(times['ours']):.2f} images/s"
    )
    return {"segment_rn50_512_k171": ratio}


def smooth_picture() -> np.ndarray:
    """A picture with structure at all scales."""
    rng = np.random.default_rng(0)
    total = np.zeros((SIDE, SIDE, 3), np.float32)
    for cells in (4, 16, 64, 256):
        grid = torch.from_numpy(rng.random((1, 3, cells, cells), dtype=np.float32))
        total += F.interpolate(grid, (SIDE, SIDE), mode="bicubic")[0].permute(1, 2, 0).numpy() / 4
    return (total.clip(0, 1) * 255).astype(np.uint8)


def normalised(segmenter: Segmenter, image: np.ndarray) -> torch.Tensor:
    from denseclip.data.transforms import normalise

    stats = segmenter.encoder.stats
    return normalise(image, stats.mean, stats.std)[None]


def _ontology(embeddings: ClassEmbeddings):
    from denseclip.vocabulary import Ontology

    return Ontology(embeddings.classes, tuple((name,) for name in embeddings.classes))


if __name__ == "__main__":
    print(run())
