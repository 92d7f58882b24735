"""A small detector in a file."""

import torch

from clip_support import tiny_clip
from denseclip.clip.clip import OPENAI_STATS
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.detection.model import build_detector
from denseclip.detection.predict import detector_contents


def write_detector(folder, kind, names):
    """A checkpoint as `denseclip train` writes it, of a small detector with random weights; its path."""
    torch.manual_seed(0)
    sizes = {"fpn_channels": 16, "decoder_width": 16, "decoder_layers": 1, "contexts": 2}
    config = DetectorConfig(kind, fc_width=16, candidates=(50, 50))
    network = build_detector(guidance_config(sizes), config, tiny_clip("rn"), names)
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("cls_logits.bias"):
            tensor += 5  # a RetinaNet finds nothing at first
    saved = {"format": 1, "kind": "denseclip", "system": "detection", "model": state}
    path = folder / "last.pt"
    torch.save(saved | {"contents": detector_contents(network, OPENAI_STATS, "short:64")}, path)
    return path
