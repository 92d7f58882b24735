"""Sticker scenes: pictures composed on the fly from sprites and textures, with masks, boxes and captions."""

from denseclip.data.stickers.scenes import (
    COLORS,
    Scene,
    SceneRecipe,
    Thing,
    describe,
    render,
    short_captions,
    sprite_names,
    window,
)
from denseclip.data.stickers.textures import TEXTURES

__all__ = [
    "COLORS",
    "TEXTURES",
    "Scene",
    "SceneRecipe",
    "Thing",
    "describe",
    "render",
    "short_captions",
    "sprite_names",
    "window",
]
