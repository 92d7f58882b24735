"""DenseCLIP (Rao et al., CVPR 2022): dense prediction guided by words, context-aware prompting."""

from denseclip.nets.denseclip.build import build_denseclip
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.guidance import Guidance, LanguageGuided, Words
from denseclip.nets.denseclip.official import load_official
from denseclip.nets.denseclip.param_groups import param_groups
from denseclip.nets.denseclip.segmenter import DenseClipOutput, DenseClipSegmenter, WordScores
from denseclip.nets.denseclip.shapes import Shapes

__all__ = [
    "DenseClipConfig",
    "DenseClipOutput",
    "DenseClipSegmenter",
    "Guidance",
    "LanguageGuided",
    "Shapes",
    "WordScores",
    "Words",
    "build_denseclip",
    "load_official",
    "param_groups",
]
