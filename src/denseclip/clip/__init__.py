"""CLIP towers and weights."""

from denseclip.clip.clip import Clip, ImageStats
from denseclip.clip.load import load_clip
from denseclip.clip.towers import (
    AttentionPoolWeights,
    BlockWeights,
    NormWeights,
    ResNetTower,
    TextTower,
    ViTTower,
)

__all__ = [
    "AttentionPoolWeights",
    "BlockWeights",
    "Clip",
    "ImageStats",
    "NormWeights",
    "ResNetTower",
    "TextTower",
    "ViTTower",
    "load_clip",
]
