"""DenseCLIP as a file: the same masks at any size, for its own classes and for other words."""

import json

import numpy as np
import pytest
import torch
from small_denseclip import CLASSES, from_clip

from denseclip.clip.clip import OPENAI_STATS
from denseclip.models.portable import Exported, export, free_sizes
from denseclip.models.trained import TrainedDenseClip
from denseclip.text import ClassPrompts

SIZES = ((64, 64), (96, 128), (70, 93))  # 64: the grid of the position tables itself


def pixels(batch, height, width):
    return np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rn", None),
        pytest.param("vit", None, marks=pytest.mark.slow),
        pytest.param("rn", ["zebra", "a green sofa"], marks=pytest.mark.slow),
    ],
)
def test_onnx_gives_the_same_masks(tmp_path, kind, words):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    trained = TrainedDenseClip("run/last.pt", from_clip(kind), OPENAI_STATS)
    network, names = trained.network(words and ClassPrompts.parse(words), ())
    export(network, trained.stats, names, tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"))
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(words or CLASSES)
    own = trained.model if words is None else trained.model.with_words(words)
    reference = Exported(own, trained.stats, argmax=True).eval()
    for batch, size in zip((1, 2, 3), SIZES, strict=True):
        image = pixels(batch, *size)
        (mask,) = session.run(None, {"image": image})
        with torch.no_grad():
            expected = reference(torch.from_numpy(image)).numpy()
        assert mask.shape == expected.shape == (batch, *size)
        assert (mask == expected).mean() >= 0.999


@pytest.mark.skipif(not free_sizes(), reason="torch.export of this torch fixes sizes")
def test_torch_export_takes_any_size(tmp_path):
    trained = TrainedDenseClip("run/last.pt", from_clip("rn"), OPENAI_STATS)
    network, names = trained.network(None, ())
    export(network, trained.stats, names, tmp_path / "m.pt2", kind="torch-export", argmax=False)
    program = torch.export.load(tmp_path / "m.pt2").module()
    reference = Exported(trained.model, trained.stats, argmax=False).eval()
    for batch, size in zip((1, 2, 3), SIZES, strict=True):
        image = torch.from_numpy(pixels(batch, *size))
        with torch.no_grad():
            torch.testing.assert_close(program(image), reference(image), atol=1e-4, rtol=1e-4)
