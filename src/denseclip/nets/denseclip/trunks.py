"""From sizes to a backbone."""

from denseclip.nets.denseclip.config import DenseClipConfig
from denseclip.nets.denseclip.resnet import ResNetTrunk
from denseclip.nets.denseclip.shapes import ResNetShape, Shapes, TimmShape
from denseclip.nets.denseclip.timm_trunk import TimmTrunk
from denseclip.nets.denseclip.trunk import Trunk
from denseclip.nets.denseclip.vit import VitTrunk


def make_trunk(shapes: Shapes, config: DenseClipConfig) -> Trunk:
    """A backbone with initial weights; with language it also gives g and z."""
    embed_dim = shapes.embed_dim if config.language else None
    if isinstance(shapes.backbone, TimmShape):
        return TimmTrunk(shapes.backbone, embed_dim, config)
    if isinstance(shapes.backbone, ResNetShape):
        return ResNetTrunk(shapes.backbone, embed_dim, config.positions)
    return VitTrunk(shapes.backbone, embed_dim, config)
