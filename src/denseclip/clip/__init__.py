"""CLIP towers and weights."""

from denseclip.clip.clip import Clip, ImageStats
from denseclip.clip.load import load_clip
from denseclip.clip.towers import ResNet, VisionTransformer
from denseclip.clip.transformer import TextTransformer

__all__ = ["Clip", "ImageStats", "ResNet", "TextTransformer", "VisionTransformer", "load_clip"]
