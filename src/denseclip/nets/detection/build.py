"""From a CLIP, or sizes, to a detector."""

from collections.abc import Sequence
from dataclasses import replace

from denseclip.clip import Clip
from denseclip.clip.tokenizer import Tokenize
from denseclip.nets.denseclip.build import shapes_for, start_from, tokenizer_of
from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.shapes import Shapes, VitShape
from denseclip.nets.detection.config import DetectorConfig
from denseclip.nets.detection.detector import Detector


def build_detector(
    config: DenseClipConfig,
    detector: DetectorConfig,
    source: Clip | Shapes,
    classes: Sequence[str],
    *,
    tokenize: Tokenize | None = None,
) -> Detector:
    """A detector for these classes.

    config: of the words' side, see `guidance_config`. source: the CLIP whose weights it starts from (batch norms not
    folded), or the sizes of a model whose weights are loaded afterwards. A CLIP ViT gets the simple feature pyramid
    (Li et al., 2022): all four maps from its last block. tokenize: names -> tokens (K, L); default: the CLIP's.

    Raises UserError for what does not fit together.
    """
    shapes = _shapes(config, source) if isinstance(source, Clip) else source
    if tokenize is None and shapes.text is not None:
        tokenize = source.tokenizer if isinstance(source, Clip) else tokenizer_of(shapes.text)
    model = Detector(config, detector, shapes, classes, tokenize)
    if isinstance(source, Clip):
        start_from(model, source)
    return model


def _shapes(config: DenseClipConfig, clip: Clip) -> Shapes:
    shapes = shapes_for(config, clip)
    backbone = shapes.backbone
    if not isinstance(backbone, VitShape):
        return shapes
    return replace(shapes, backbone=replace(backbone, out_indices=(backbone.layers - 1,) * 4))
