"""Published MaskCLIP+ files: generated ones with mmsegmentation's names load whole or not at all."""

from collections import OrderedDict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import denseclip
from denseclip.data.transforms import IMAGENET_MEAN, IMAGENET_STD, normalize
from denseclip.errors import UserError
from denseclip.models.backbones import ResNetShape
from denseclip.models.official import load_published
from denseclip.models.student import StudentConfig, build_student
from denseclip.text import ClassEmbeddings, class_set

SHAPE = ResNetShape((1, 2, 1, 1), stem=8, base=4)
RESNET_TEACHER = {
    "clip.stem.0.weight": (4, 3, 3, 3),
    "clip.layer1.0.bn1.running_mean": (8,),
    **{f"{k}_proj.weight": (8, 8, 1, 1) for k in "qkvc"},
    **{f"{k}_proj.bias": (8,) for k in "qkvc"},
}
VIT_TEACHER = {
    "clip.cls_token": (1, 1, 8),
    "clip.layers.0.attn.attn.in_proj_weight": (24, 8),
    "proj.weight": (8, 8, 1, 1),
}


def student(head="aspp_v2", *, background=False, count=20):
    """A small student with random weights and statistics."""
    torch.manual_seed(0)
    matrix = F.normalize(torch.randn(count, 16), dim=1)
    words = ClassEmbeddings(matrix, torch.arange(count), tuple(f"word {i}" for i in range(count)))
    net = build_student(StudentConfig(16, "resnet", head, background=background, shape=SHAPE), words)
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.running_mean, std=0.1)
    return net.eval()


def official_state(net, teacher=RESNET_TEACHER):
    """The student's weights as the official code saves them, with its teacher and counter."""
    state = OrderedDict()
    for name, value in net.state_dict().items():
        state[name if name.startswith("backbone.") else f"decode_head.{name}"] = value
    state["decode_head._iter_counter"] = torch.tensor(2000)
    state["decode_head.text_embeddings"] = net.matrix
    state.update({f"decode_head.{name}": torch.randn(shape) for name, shape in teacher.items()})
    return state


def write(path, state):
    meta = {
        "CLASSES": ("a", "b"),
        "PALETTE": [[0, 0, 0]],
        "mmseg_version": "0.20.2",
        "iter": 2000,
        "epoch": 1,
    }
    torch.save({"meta": meta, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, path)
    return path


@pytest.mark.parametrize("teacher", [RESNET_TEACHER, VIT_TEACHER, {}], ids=["resnet", "vit", "none"])
@pytest.mark.parametrize(
    ("head", "background"), [("aspp_v2", False), ("deeplabv3plus", True), ("psp", False)]
)
def test_all_weights_arrive(tmp_path, head, background, teacher):
    net = student(head, background=background)
    loaded = load_published(write(tmp_path / "a.pth", official_state(net, teacher)))
    images = torch.randn(1, 3, 48, 64)
    assert loaded.config == net.config and not loaded.training
    assert loaded.classes[-20:] == class_set("voc")
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), net(images))


def test_own_names(tmp_path):
    path = write(tmp_path / "a.pth", official_state(student(count=3)))
    assert load_published(path, ["x", "y", "z"]).classes == ("x", "y", "z")
    with pytest.raises(UserError, match="has 3 classes and no names for them; give classes="):
        load_published(path)
    with pytest.raises(UserError, match="has 3 classes, 2 names are given"):
        load_published(path, ["x", "y"])


def without(name):
    return lambda state: state.pop(name)


def with_value(name, value):
    return lambda state: state.update({name: value})


def drop(prefix):
    return lambda state: [state.pop(name) for name in list(state) if name.startswith(prefix)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("backbone.layer3.0.conv2.weight"), r"missing backbone\.layer3\.0\.conv2\.weight;"),
        (without("decode_head.text_embeddings"), r"it has no decode_head\.text_embeddings"),
        (drop("backbone."), "or no backbone"),
        (drop("decode_head.decode_module."), "MaskCLIP without a student"),
        (drop("backbone.stem."), "no ResNetV1c"),
        (
            with_value("decode_head.conv_seg.weight", torch.zeros(1)),
            r"unknown decode_head\.conv_seg\.weight;",
        ),
        (with_value("auxiliary_head.a", torch.zeros(1)), r"unknown auxiliary_head\.a;"),
        (
            with_value("decode_head.decode_module.aspp_modules.4.bn.bias", torch.zeros(1)),
            "unknown decode_module",
        ),
        (
            with_value("backbone.layer2.0.bn1.bias", torch.zeros(3)),
            r"bn1\.bias has shape \(3,\), .* needs \(8,\)",
        ),
        (
            with_value("backbone.layer2.0.bn1.bias", torch.full((8,), torch.nan)),
            "NaN or infinite values in backbone",
        ),
        (with_value("text_encoder.ln.bias", torch.zeros(1)), "is a DenseCLIP checkpoint"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    state = official_state(student())
    change(state)
    with pytest.raises(UserError, match=message) as caught:
        load_published(write(tmp_path / "a.pth", state))
    assert "a.pth" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_head(tmp_path):
    state = official_state(student())
    for name in [n for n in state if "aspp_modules" in n]:
        state[name.replace("aspp_modules", "fcn")] = state.pop(name)
    with pytest.raises(UserError, match="its decode head is none of MaskCLIP"):
        load_published(write(tmp_path / "a.pth", state))


def test_real_sizes_are_known_by_name(tmp_path):
    matrix = F.normalize(torch.randn(59, 8), dim=1)
    words = ClassEmbeddings(matrix, torch.arange(59), class_set("context"))
    net = build_student(StudentConfig(8, "resnet18", "psp"), words)
    assert load_published(write(tmp_path / "a.pth", official_state(net))).config == net.config


def test_pickled_code_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("code from a checkpoint was run",))

    torch.save({"state_dict": {"backbone.x": Trap()}}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"a\.pth"):
        load_published(tmp_path / "a.pth")


def test_behind_a_segmenter(tmp_path):
    """A published file goes wherever a model goes; other words need the CLIP that fits its vectors."""
    net = student()
    path = write(tmp_path / "a.pth", official_state(net))
    segmenter = denseclip.load(path, resize="none")
    assert segmenter.classes == class_set("voc")
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    with torch.no_grad():
        logits = F.interpolate(
            net(normalize(image, IMAGENET_MEAN, IMAGENET_STD)[None]), (48, 64), mode="bilinear"
        )
    assert (segmenter.segment(image).mask == logits[0].argmax(0).numpy()).mean() > 0.999
    with pytest.raises(UserError, match="does not say which CLIP"):
        segmenter.set_classes(["zebra"])
