"""Detection: RetinaNet and Mask R-CNN guided by words (DenseCLIP, section 5)."""

from denseclip.nets.detection.build import build_detector
from denseclip.nets.detection.config import PROFILES, DetectorConfig, Profile, guidance_config
from denseclip.nets.detection.detector import Detector, DetectorOutput
from denseclip.nets.detection.instances import Detections, Instances
from denseclip.nets.detection.official import load_official_detector

__all__ = [
    "PROFILES",
    "Detections",
    "Detector",
    "DetectorConfig",
    "DetectorOutput",
    "Instances",
    "Profile",
    "build_detector",
    "guidance_config",
    "load_official_detector",
]
