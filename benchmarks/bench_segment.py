"""The whole pipeline, from a picture in memory to a mask: RN50 shape, 512 x 512, 171 classes, random weights.

Reference: plain eager fp32 in PyTorch's default memory format, open_clip's modules one after the other, then
F.interpolate + argmax. Ours: `Segmenter.segment` in the precision that `--precision auto` picks on this machine.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from denseclip.clip import Clip, load_clip
from denseclip.clip.device import pick_precision
from denseclip.loading import make_settings
from denseclip.segment.segmenter import Segmenter
from denseclip.text import ClassEmbeddings

SIDE, CLASSES, ROUNDS = 512, 171, 5


def random_rn50() -> torch.nn.Module:
    """An RN50-shaped CLIP with random values: speed does not depend on them."""
    import open_clip

    torch.manual_seed(0)
    return open_clip.create_model("RN50", pretrained=None).eval()


def loaded(model: torch.nn.Module) -> Clip:
    """The same weights through our loading path."""
    with tempfile.TemporaryDirectory() as folder:
        torch.save(model.state_dict(), Path(folder) / "rn50.pt")
        return load_clip(Path(folder) / "rn50.pt", config={"quick_gelu": True})


@torch.inference_mode()
def plain_features(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Value path features (1, D, h, w) of pictures (1, 3, H, W), unit vectors, written down plainly."""
    visual = model.visual
    x = visual.stem(images)
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
    x = visual.attnpool.c_proj(visual.attnpool.v_proj(x.permute(0, 2, 3, 1)))
    return F.normalize(x, dim=-1).permute(0, 3, 1, 2)


def embeddings_near(features: torch.Tensor) -> ClassEmbeddings:
    """171 unit vectors around the features of the picture, so that scores look like a real model's."""
    flat = features.flatten(2)[0].T  # (hw, D)
    torch.manual_seed(1)
    picked = flat[torch.randint(len(flat), (CLASSES,))] + 0.02 * torch.randn(CLASSES, flat.shape[1])
    names = tuple(f"class {i}" for i in range(CLASSES))
    return ClassEmbeddings(F.normalize(picked, dim=-1), torch.arange(CLASSES), names)


def run() -> dict[str, float]:
    """Ratio of images/s, ours over the reference, median of interleaved rounds."""
    model = random_rn50()
    clip = loaded(model)
    dtype = pick_precision("auto", clip.device).dtype
    settings = make_settings(resize="none", templates="1")
    ours = Segmenter(clip.folded().to(dtype=dtype), None, settings)
    image = smooth_picture()
    embeddings = embeddings_near(plain_features(model, normalized(ours, image)))
    ours._embeddings = embeddings  # what set_classes would have computed
    ours._class_prompts = _class_prompts(embeddings)

    def reference() -> np.ndarray:
        features = plain_features(model, normalized(ours, image))
        scores = torch.einsum("bdhw,kd->bkhw", features, embeddings.matrix)
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


def normalized(segmenter: Segmenter, image: np.ndarray) -> torch.Tensor:
    from denseclip.data.transforms import normalize

    stats = segmenter.encoder.stats
    return normalize(image, stats.mean, stats.std)[None]


def _class_prompts(embeddings: ClassEmbeddings):
    from denseclip.text import ClassPrompts

    return ClassPrompts(embeddings.classes, tuple((name,) for name in embeddings.classes))


if __name__ == "__main__":
    print(run())
