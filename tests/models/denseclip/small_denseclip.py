"""Small DenseCLIPs with random weights, and a tokenizer of letters."""

import torch
from torch import Tensor

from clip_support import tiny_clip
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseClipSegmenter, build_denseclip
from denseclip.models.encoders import Shapes

CLASSES = ("cat", "tree", "a bus")
START, END = 62, 63
TEXT = {"width": 32, "layers": 2, "heads": 2, "context_length": 24, "vocab_size": 64}
RESNET = Shapes({"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 128}, TEXT, 24)
VIT = Shapes(
    {"patch_size": 16, "width": 32, "layers": 4, "head_width": 16, "mlp_ratio": 2.0, "image_size": 64},
    TEXT,
    24,
)
SMALL = {"fpn_channels": 16, "decoder_width": 16, "decoder_heads": 2, "decoder_layers": 1, "contexts": 4}


def tokenize(names) -> Tensor:
    """One token a letter."""
    tokens = torch.zeros(len(names), 40, dtype=torch.long, device="cpu")
    for row, name in zip(tokens, names, strict=True):
        ids = [START, *(1 + ord(letter) % 61 for letter in name), END]
        row[: len(ids)] = torch.tensor(ids, device="cpu")
    return tokens


def small(shapes: Shapes = RESNET, classes=CLASSES, **options) -> DenseClipSegmenter:
    """A model in eval mode, the same at every call."""
    torch.manual_seed(0)
    config = DenseClipConfig(**{**SMALL, "gamma": 0.5, **options})
    return build_denseclip(config, shapes, classes, tokenize=tokenize).eval()


def from_clip(kind: str, classes=CLASSES, **options) -> DenseClipSegmenter:
    """A model that starts from a small CLIP ("rn" or "vit"), in eval mode."""
    torch.manual_seed(0)
    config = DenseClipConfig(**{**SMALL, **options})
    return build_denseclip(config, tiny_clip(kind), classes).eval()


def images(batch: int = 2, height: int = 64, width: int = 96) -> Tensor:
    """Pictures, the same at every call."""
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))
