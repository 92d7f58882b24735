"""Equality with the official segmentation models, through the loading of their checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from denseclip_cases import GRADIENT, Case

from denseclip.dense.views import Slide
from denseclip.nets.inference import best_class, probabilities, run_view, run_views
from fixtures_support import cases

pytestmark = pytest.mark.fixtures


@pytest.fixture(scope="module", params=cases("denseclip", "seg_*.json"), ids=lambda p: p.stem)
def case(request):
    return Case(request.param)


@pytest.fixture(scope="module")
def output(case):
    with torch.no_grad():
        return case.model.run(case.images)


def test_trunk_and_its_embeddings(case):
    with torch.no_grad():
        trunk = case.model.backbone(case.images)
    for i, one in enumerate(trunk.maps):
        case.close(f"feat{i}", one)
    case.close("global_embedding", trunk.whole)
    case.close("local_embedding", trunk.local)


def test_words_prompting_and_score_map(case, output):
    with torch.no_grad():
        plain = case.model.words.embeddings(case.model.text_encoder, case.model.contexts)
    case.close("text_embeddings", plain)
    case.close("text_embeddings_refined", output.guidance.text)
    case.close("text_diff", (output.guidance.text - plain) / case.model.gamma)
    case.close("score_map", output.guidance.scores)
    if "concat_feature" in case.arrays:
        case.close("concat_feature", output.guidance.maps[case.config["concat"]])


def test_neck_and_logits(case, output):
    necks = [name for name in case.arrays if name.startswith("neck")]
    assert necks
    for name in necks:
        case.close(name, output.pyramid[int(name.removeprefix("neck"))])
    case.close("decode_logits", output.logits)
    if "logits" in case.arrays:
        size = case.images.shape[-2:]
        case.close("logits", F.interpolate(output.logits, size, mode="bilinear", align_corners=False))


def test_losses_and_gradients(case):
    case.model.zero_grad()
    losses = case.model.loss(case.images, case["gt"][:, 0])
    case.close("loss:decode.loss_ce", losses["decode"])
    case.close("loss:aux_identity.loss_ce", losses["aux"])
    sum(losses.values()).backward()
    parameters = dict(case.model.named_parameters())
    gradients = [name for name in case.arrays if name.startswith("grad:")]
    assert gradients
    for name in gradients:
        case.close(name, parameters[name.removeprefix("grad:")].grad, GRADIENT)
    case.model.zero_grad()


def test_windows_scales_and_mirrors(case):
    slide = case.meta["slide"]
    if not slide:
        pytest.skip("no slide settings in this case")
    size, rule = tuple(slide["ori"]), Slide(slide["crop"][0], slide["stride"][0])
    first = case.input("slide", (1, 3, *slide["img"]))[0]
    second = case.input("slide2", (1, 3, *slide["img2"]))[0]
    frame = run_view(case.model, first, tuple(slide["img"]), slide=rule)
    case.close("slide_logits_norescale", frame.rows(slice(None))[None])
    case.close("slide_probs_view0", probabilities([run_view(case.model, first, size, slide=rule)])[None])
    case.close("whole_probs_view0", probabilities([run_view(case.model, first, size)])[None])
    views = run_views(case.model, [first, second], size, slide=rule, flip=True)
    case.close("tta_probs_mean", probabilities(views)[None])
    assert (best_class(views) == case["tta_argmax"][0]).float().mean() >= 0.999
