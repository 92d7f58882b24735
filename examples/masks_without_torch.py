"""Masks from an exported file with onnxruntime and numpy alone; Pillow only opens and saves pictures.

denseclip export tiny-rn --classes "cat, dog, grass" --uint8 --out words.onnx
python examples/masks_without_torch.py words.onnx picture.jpg mask.png
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, picture, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model)
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
image = Image.open(picture).convert("RGB")
width, height = (max(64, round(side / 32) * 32) for side in image.size)  # whole cells of a CLIP
pixels = np.asarray(image.resize((width, height)))  # (H, W, 3) uint8
(mask,) = session.run(None, {"image": pixels[None]})  # (1, H, W)
print({name: f"{(mask == number).mean():.1%}" for number, name in enumerate(classes)})
Image.fromarray(mask[0].astype(np.uint8)).resize(image.size, Image.Resampling.NEAREST).save(out)
