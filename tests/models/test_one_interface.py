"""`denseclip.load` gives one `nn.Module` for a CLIP, a student, a DenseCLIP or a detector, and all serve alike."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import denseclip
from clip_support import tiny_clip
from denseclip.clip.clip import OPENAI_STATS
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.detection.model import build_detector
from denseclip.detection.predict import detector_contents, load_detector
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import build_denseclip
from denseclip.models.student import StudentConfig, build_student
from denseclip.models.trained import contents_of
from denseclip.text import ClassEmbeddings

OWN = ("cat", "dog", "sky")
KINDS = ("tiny-rn", "tiny-vit", "student", "denseclip", "retinanet", "maskrcnn")
SMALL = {"fpn_channels": 16, "decoder_width": 16, "decoder_layers": 1, "contexts": 2}


def _student():
    rows = F.normalize(torch.randn(3, 8), dim=1)
    words = ClassEmbeddings(rows, torch.arange(3), OWN)
    network = build_student(StudentConfig(8, "resnet18"), words)
    contents = {"config": asdict(network.config), "classes": OWN, "prompts": [[n] for n in OWN], "text": {}}
    return network, "maskclip+", contents | {"matrix": rows, "owner": words.class_of_prompt}


def _denseclip():
    network = build_denseclip(DenseClipConfig(**SMALL), tiny_clip("rn"), OWN)
    return network, "denseclip", contents_of(network, OPENAI_STATS)


def _detector(kind):
    config = DetectorConfig(kind, fc_width=16, candidates=(50, 50))
    network = build_detector(guidance_config(SMALL), config, tiny_clip("rn"), OWN)
    return network, "detection", detector_contents(network, OPENAI_STATS, "short:64")


@pytest.fixture(scope="module", params=KINDS)
def source(request, tmp_path_factory):
    """What to give to `load`: a name, or a checkpoint with random weights as `denseclip train` writes it."""
    kind = request.param
    if kind.startswith("tiny"):
        return kind
    torch.manual_seed(0)
    network, system, contents = (
        {"student": _student, "denseclip": _denseclip}[kind]()
        if kind in ("student", "denseclip")
        else _detector(kind)
    )
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    for name, tensor in state.items():
        if name.endswith("cls_logits.bias"):
            tensor += 5  # a RetinaNet finds nothing at first
    path = tmp_path_factory.mktemp(kind) / "last.pt"
    saved = {"format": 1, "kind": "denseclip", "system": system, "model": state, "contents": contents}
    torch.save(saved, path)
    return path


def load(source, **options):
    words = ["cat", "dog"] if isinstance(source, str) else None
    return denseclip.load(source, words, device="cpu", precision="fp32", cache=False, **options)


def picture(height=64, width=96):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_every_kind_is_a_module_with_scores_that_can_be_learned_through(source):
    model = load(source)
    assert isinstance(model, nn.Module) and not model.training
    x = torch.rand(2, 3, 64, 96, requires_grad=True)
    scores = model(x)
    assert scores.shape[:2] == (2, len(model.embeddings.classes)) and scores.dtype == torch.float32
    (gradient,) = torch.autograd.grad(scores.sum(), x)
    assert gradient.isfinite().all() and gradient.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_all_weights_move_and_are_in_the_state(source):
    model = load(source)
    state = model.state_dict()
    floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
    assert sum(tensor.numel() for tensor in floats) > 1000
    storages = [tensor.data_ptr() for tensor in state.values() if tensor.numel() > 1]
    assert len(storages) == len(set(storages)), "a weight is there twice"
    with torch.no_grad():
        x = torch.rand(1, 3, 64, 96)
        before = model(x)
        changed = {name: t * 0.5 if t.is_floating_point() else t for name, t in state.items()}
        model.load_state_dict(changed)
        assert not torch.equal(model(x), before)
    halved = load(source).half()
    assert halved.clip.dtype == torch.float16
    wide = {n for n, t in halved.state_dict().items() if t.dtype == torch.float32}
    assert all(".bn" in name or "downsample" in name for name in wide), (
        "only batch norms of CLIP's ResNets stay"
    )


def test_pictures_become_masks_of_its_classes(source):
    model = load(source, resize="short:64")
    one = model.segment(picture())
    assert one.mask.shape == (64, 96) and one.mask.max() < len(model.classes) == len(one.classes)
    assert one.scores.shape[0] == len(one.scored)
    encoded = model.encode(picture())
    many = list(model.segment([picture(), picture()]))
    for other in (model.segment(encoded), *many):
        assert (other.mask == one.mask).all()
    model.set_classes(["dog"])
    assert model.segment(encoded).classes[-1] == "dog"
    assert model.segment(encoded).heatmap("dog").shape == (64, 96)
    with pytest.raises(UserError, match=r"\(B, 3, H, W\)"):
        model(torch.rand(3, 64, 96))


@pytest.mark.parametrize("source", KINDS[4:], indirect=True)
def test_a_detectors_masks_are_those_of_what_it_detects(source):
    image = picture(70, 101)
    detector = load_detector(source, torch.device("cpu"))
    found = detector.detect(image)
    threshold = float(np.median(found.scores)) - 1e-4
    model = load(source, threshold=threshold)
    expected = np.zeros(image.shape[:2], int)
    kept = found.above(threshold)
    for index in reversed(range(len(kept))):
        x0, y0, x1, y1 = np.rint(kept.boxes[index]).astype(int)
        inside = kept.mask(index) if detector.masks else np.s_[y0:y1, x0:x1]
        expected[inside] = 1 + kept.labels[index]
    result = model.segment(image, confidence=True)
    assert model.classes == ("background", *OWN) == result.classes
    assert (result.mask == expected).all() and expected.any()
    assert (result.confidence[expected > 0] >= threshold - 1e-6).all()
    encoded = model.encode(image)
    model.set_classes({"animal": ["cat", "dog"]})
    assert ((model.segment(encoded).mask == 1) >= np.isin(expected, (1, 2))).all()
    with pytest.raises(UserError, match="does not find 'sofa'"):
        model.set_classes(["sofa"])
    for refused in ({"preset": "sclip"}, {"refine": "pd"}, {"slide": "64/32"}, {"background": "wall"}):
        with pytest.raises(UserError, match=r"is a (detector|trained model)"):
            load(source, **refused)
