"""Equality with the official detectors, through the loading of their checkpoints."""

import numpy as np
import pytest
import torch
from denseclip_cases import GRADIENT, Case

from denseclip.detection.config import Instances
from denseclip.detection.model import box_target, load_official_detector, score_map_loss
from denseclip.models.fpn import resize
from fixtures_support import cases, denseclip_weights

pytestmark = pytest.mark.fixtures


def head_shapes(task: str, classes: int, channels: int) -> dict[str, tuple[int, ...]]:
    """What the cases leave out: the heads as mmdetection names them."""
    square = (channels, channels, 3, 3)
    if task == "retinanet":
        layers = {f"bbox_head.{part}_convs.{i}.conv": square for part in ("cls", "reg") for i in range(4)}
        layers |= {"bbox_head.retina_cls": (9 * classes, channels, 3, 3)}
        layers |= {"bbox_head.retina_reg": (36, channels, 3, 3)}
    else:
        layers = {"rpn_head.rpn_conv": square, "rpn_head.rpn_cls": (3, channels, 1, 1)}
        layers |= {"rpn_head.rpn_reg": (12, channels, 1, 1)}
        roi = {"bbox_head.shared_fcs.0": (24, channels * 49), "bbox_head.shared_fcs.1": (24, 24)}
        roi |= {"bbox_head.fc_cls": (classes + 1, 24), "bbox_head.fc_reg": (4 * classes, 24)}
        roi |= {f"mask_head.convs.{i}.conv": square for i in range(4)}
        roi |= {"mask_head.upsample": (channels, channels, 2, 2)}
        roi |= {"mask_head.conv_logits": (classes, channels, 1, 1)}
        layers |= {f"roi_head.{name}": shape for name, shape in roi.items()}
    return {
        **{f"{name}.weight": shape for name, shape in layers.items()},
        **{f"{name}.bias": shape[:1] for name, shape in layers.items()},
    }


def whole_state(case: Case) -> dict[str, torch.Tensor]:
    shapes = head_shapes(case.meta["task"], len(case.meta["class_names"]), case.config["fpn"])
    made = {n: np.asarray(denseclip_weights.value(n, s, case.seed)) for n, s in shapes.items()}
    return case.state | {name: torch.from_numpy(array) for name, array in made.items()}


@pytest.fixture(scope="module", params=cases("denseclip", "det_*.json"), ids=lambda p: p.stem)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def model(case):
    names = case.meta["class_names"]
    return load_official_detector(whole_state(case), names, tokenize=case.tokenize, heads=case.heads)


@pytest.fixture(scope="module")
def output(case, model):
    with torch.no_grad():
        return model.run(case.images)


def instances(case: Case) -> list[Instances]:
    found = range(len(case.images))
    return [Instances(case[f"boxes{i}"].view(-1, 4), case[f"labels{i}"]) for i in found]


def test_trunk_words_and_score_map(case, model, output):
    with torch.no_grad():
        trunk = model.backbone(case.images)
        plain = model.words.embeddings(model.text_encoder, model.contexts)
    for i, one in enumerate(trunk.maps):
        case.close(f"feat{i}", one)
    case.close("global_embedding", trunk.global_feature)
    case.close("local_embedding", trunk.dense_feature)
    case.close("text_embeddings", plain)
    case.close("text_diff", (output.features.text - plain) / model.gamma)
    scores = output.features.scores / model.config.tau
    case.close("score_map3", scores)
    case.close("score_map0", resize(scores, tuple(case["score_map0"].shape[2:])))


def test_neck(case, output):
    case.close("neck_in3", output.features.maps[3])
    necks = [name for name in case.arrays if name.startswith("neck") and "_" not in name]
    assert len(necks) == len(output.pyramid)
    for name in necks:
        case.close(name, output.pyramid[int(name.removeprefix("neck"))])


def test_target_of_the_score_map_exactly(case):
    size = tuple(case["seg_target"].shape[2:])
    target, counts = box_target(instances(case), len(case.meta["class_names"]), size)
    assert torch.equal(target.byte(), case["seg_target"])
    assert torch.equal(counts.byte(), case["seg_mask"])


def test_loss_of_the_score_map_and_gradients(case, model):
    model.zero_grad()
    scores = model.run(case.images).features.scores / model.config.tau
    size = tuple(case["seg_target"].shape[2:])
    loss = score_map_loss(scores, *box_target(instances(case), len(model.classes), size))
    (name,) = [name for name in case.arrays if name.startswith("loss:")]
    case.close(name, loss)
    loss.backward()
    parameters = dict(model.named_parameters())
    gradients = [name for name in case.arrays if name.startswith("grad:")]
    assert gradients
    for name in gradients:
        case.close(name, parameters[name.removeprefix("grad:")].grad, GRADIENT)
    model.zero_grad()


def test_they_find_something(case, model):
    with torch.no_grad():
        found = model(case.images)
    assert len(found) == len(case.images)
    for one in found:
        assert torch.isfinite(one.boxes).all()
        assert len(one.boxes) <= 100
