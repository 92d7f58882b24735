"""Equality with the official segmentation models, through the loading of their checkpoints."""

import pytest
import torch
import torch.nn.functional as F
from denseclip_cases import GRADIENT, Case

from denseclip.segment.fusion import ScoreFusion
from denseclip.segment.resample import windows
from denseclip.segment.settings import Slide
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
    case.close("global_embedding", trunk.global_feature)
    case.close("local_embedding", trunk.dense_feature)


def test_words_prompting_and_score_map(case, output):
    with torch.no_grad():
        plain = case.model.words.embeddings(case.model.text_encoder, case.model.contexts)
    case.close("text_embeddings", plain)
    case.close("text_embeddings_refined", output.features.text)
    case.close("text_diff", (output.features.text - plain) / case.model.gamma)
    case.close("score_map", output.features.scores)
    if "concat_feature" in case.arrays:
        case.close("concat_feature", output.features.maps[case.config["concat"]])


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


def views(case, frames, rule, *, flip, temperature=1.0, size=None):
    """Scores (K, H, W) of frames (3, h, w) run in windows and put together."""
    pieces = {tuple(frame.shape[1:]): frame for frame in frames}
    cuts = [cut for frame in pieces for cut in windows(frame, rule, flip)]
    with torch.no_grad():
        maps = [case.model(cut.cut(pieces[cut.frame])[None])[0] for cut in cuts]
    sizes = [(one.shape[1], one.shape[2]) for one in maps]
    return ScoreFusion(cuts, sizes, size or tuple(case.meta["slide"]["ori"]), temperature).full(maps)


def test_windows_scales_and_mirrors(case):
    slide = case.meta["slide"]
    if not slide:
        pytest.skip("no slide settings in this case")
    rule = Slide(slide["crop"][0], slide["stride"][0])
    first = case.input("slide", (1, 3, *slide["img"]))[0]
    second = case.input("slide2", (1, 3, *slide["img2"]))[0]
    assert first.shape != second.shape
    frame = views(case, [first], rule, flip=False, size=tuple(slide["img"]))
    case.close("slide_logits_norescale", frame[None])
    case.close("slide_probs_view0", views(case, [first], rule, flip=False).softmax(0)[None])
    case.close("whole_probs_view0", views(case, [first], None, flip=False).softmax(0)[None])
    logs = views(case, [first, second], rule, flip=True)
    case.close("tta_probs_mean", logs.exp()[None])
    assert (logs.argmax(0) == case["tta_argmax"][0]).float().mean() >= 0.999
