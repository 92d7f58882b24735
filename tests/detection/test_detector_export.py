"""RetinaNet as a file: the same boxes and scores, at any size."""

import json

import numpy as np
import pytest
import torch
from small_detectors import detector_from_clip

from denseclip.clip.clip import OPENAI_STATS
from denseclip.data.transforms import ResizeRule
from denseclip.detection.predict import ExportedRetinaNet, TrainedDetector, export_detector
from denseclip.detection.retinanet import image_list
from denseclip.errors import UserError


def trained(kind="retinanet", **options):
    return TrainedDetector("last.pt", detector_from_clip(kind, **options), OPENAI_STATS, ResizeRule("none"))


def pixels(batch, height, width):
    return np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)


def test_graph_decodes_as_the_head_does():
    model = trained()
    module = ExportedRetinaNet(model.model, model.stats)
    image = torch.from_numpy(pixels(2, 64, 96))
    with torch.no_grad():
        boxes, scores = module(image)
        pyramid = model.model.run((image - module.mean) / module.std).pyramid
        head = model.model.head
        anchors = head.anchor_generator(image_list(image, None), list(pyramid))
        outputs = head.outputs(pyramid)
    torch.testing.assert_close(scores, outputs["cls_logits"].sigmoid())
    each = torch.cat([head.anchor_generator.at(i, one) for i, one in enumerate(pyramid)])
    torch.testing.assert_close(each, anchors[0])
    limit = torch.tensor([96.0, 64, 96, 64])
    for i in range(2):
        wanted = head.box_coder.decode_single(outputs["bbox_regression"][i], anchors[i])
        torch.testing.assert_close(boxes[i], wanted.clamp_min(0).minimum(limit), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("language", [True, False])
def test_onnx_gives_the_same_boxes(tmp_path, language):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = trained(language=language)
    export_detector(model, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(model.classes)
    reference = ExportedRetinaNet(model.model, model.stats)
    for shape in ((1, 64, 64), (2, 96, 160), (1, 224, 128)):
        image = pixels(*shape)
        boxes, scores = session.run(["boxes", "scores"], {"image": image})
        with torch.no_grad():
            wanted = reference(torch.from_numpy(image))
        np.testing.assert_allclose(boxes, wanted[0].numpy(), atol=1e-3)
        np.testing.assert_allclose(scores, wanted[1].numpy(), atol=1e-4)


def test_regions_have_no_fixed_graph(tmp_path):
    with pytest.raises(UserError, match="is a Mask R-CNN"):
        export_detector(trained("maskrcnn"), tmp_path / "m.onnx")
