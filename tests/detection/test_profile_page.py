"""docs/detection-profile.md: every setting of the official detectors beside what our recipes build.

official_detection.json is a copy of the facts (sections 5 and 5.1); ours are read from recipes and the networks that
they make, at full size but without values.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from denseclip.data.open_things import COCO
from denseclip.detection.config import guidance_config
from denseclip.detection.matching import MaxIou
from denseclip.detection.model import STRIDE
from denseclip.detection.predict import PAPER_RESIZE, SURE
from denseclip.evaluate.costs import tokenizer_for
from denseclip.models.denseclip import OFFICIAL_RULES
from denseclip.reproduce.forecast import network
from denseclip.text.prompts import coco_things
from denseclip.train.batches import DIVISOR, ThingsBatch, normalized
from denseclip.train.recipe import read_recipe

HERE = Path(__file__).parent
FACTS = json.loads((HERE / "official_detection.json").read_text(encoding="utf-8"))
PAGE = (HERE.parents[1] / "docs" / "detection-profile.md").read_text(encoding="utf-8")
KINDS = ("retinanet", "maskrcnn")
NAMES = {"retinanet": "RetinaNet", "maskrcnn": "Mask R-CNN", "both": "both"}


def shown(value):
    """As it stands in the table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def built(kind, language=True):
    recipe = read_recipe(f"coco-{'denseclip-' if language else ''}{kind}-rn50")
    return recipe, network(recipe, COCO).net


def matched(matcher):
    assert isinstance(matcher, MaxIou)
    return [matcher.high_threshold, matcher.low_threshold, matcher.least]


def trained(kind):
    """Of recipe and optimizer."""
    recipe, net = built(kind)
    part, epoch = recipe.optimizer, -(-117_266 // recipe.batch)
    return {
        "size": recipe.detection.resize,
        "size, testing": PAPER_RESIZE,
        "flip": recipe.detection.flip,
        "crop, scales, colours": [recipe.detection.crop, *recipe.detection.ratio, recipe.detection.colors]
        != [None, 1.0, 1.0, False],
        "sides are padded to multiples of": DIVISOR,
        "batch": recipe.batch,
        "pictures that are normalized together": recipe.batch // recipe.accumulate,
        "optimizer": part.name,
        "rate": part.lr,
        "weight decay": part.weight_decay,
        "rates of backbone and text encoder": [
            rate for key in ("backbone", "text_encoder") for name, rate, _ in OFFICIAL_RULES if name == key
        ],
        "names without decay": [name for name, _, decay in OFFICIAL_RULES if not decay],
        "largest norm of gradients": part.clip,
        "warm-up": [part.warmup, part.warmup_ratio],
        "epochs, and those before which the rate falls": [
            recipe.steps // epoch,
            *(drop // epoch for drop in part.drops),
        ],
        "text encoder is frozen": not any(p.requires_grad for p in net.text_encoder.parameters()),
    }


def common(kind):
    """Of the network apart from its head."""
    recipe, net = built(kind)
    _, plain = built(kind, language=False)
    config = guidance_config(recipe.denseclip.config)
    inside = [conv[0].in_channels for conv in net.neck.lateral_convs]
    convs = list(net.neck.fpn_convs)
    norms = [m for m in net.backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    others = [
        m
        for part in (net.neck, net.head)
        for m in part.modules()
        if "Norm" in type(m).__name__ and "Activation" not in type(m).__name__
    ]
    return {
        "channels into the neck": inside,
        "channels into the neck, without words": [conv[0].in_channels for conv in plain.neck.lateral_convs],
        "channels of the neck": convs[0][0].out_channels,
        "neck begins at C": 2 + net.neck.start,
        "maps": len(inside) + net.neck.extra,
        "extra convolutions": [[conv[0].in_channels, conv[0].stride[0]] for conv in convs[len(inside) :]],
        "ReLU before P7": net.neck.activation,
        "norms of neck and head": len(others),
        "frozen layers": sum(not p.requires_grad for p in net.backbone.parameters()),
        "batch norms are trained": all(norm.train().training and norm.weight.requires_grad for norm in norms),
        "positions: pixels, and how a picture gets them": [config.resolution, config.positions],
        "score map is divided by": config.tau if config.score_logits else 1.0,
        "weight of the score map's loss": config.aux_weight,
        "grid of the score map's loss": STRIDE,
        "contexts": config.contexts,
        "tokens of a name": tokenizer_for({}, "CLIP")(coco_things()).argmax(1).max().item() + 1,
        "decoder: width, heads, layers, dropout": [
            config.decoder_width,
            config.decoder_heads,
            config.decoder_layers,
            config.decoder_dropout,
        ],
        "gamma at the start": config.gamma,
        "classes": len(coco_things()),
        "padding is black after normalizing": bool((normalized_corner() == 0).all()),
    }


def normalized_corner():
    batch = ThingsBatch(torch.full((1, 3, 32, 32), 9, dtype=torch.uint8), torch.tensor([[16, 16]]), ())
    from denseclip.clip.clip import OPENAI_STATS

    return normalized(batch, OPENAI_STATS)[:, :, 16:]


def anchors(generator):
    strides = list(generator.strides)
    return {
        "anchors: strides": strides,
        "anchors: sides in strides": sorted(
            {
                round(side / stride, 4)
                for stride, level in zip(strides, generator.sizes, strict=True)
                for side in level
            }
        ),
        "anchors: height over width": list(generator.aspect_ratios[0]),
        "anchors: sides are rounded": generator.rounded,
    }


def deviations(coder):
    return [round(1 / weight, 4) for weight in coder.weights]


def retinanet():
    recipe, net = built("retinanet")
    head = net.head
    branches = head.head.classification_head, head.head.regression_head
    convs = [[m for m in branch.conv.modules() if isinstance(m, nn.Conv2d)] for branch in branches]
    details = read_details(recipe)
    return anchors(head.anchor_generator) | {
        "stacked convolutions of classes and of boxes": [len(part) for part in convs],
        "channels of the head": convs[0][0].out_channels,
        "overlap: from, below, least of a best anchor": matched(head.proposal_matcher),
        "deltas' deviations": deviations(head.box_coder),
        "largest factor of a box's side": round(float(torch.tensor(head.box_coder.bbox_xform_clip).exp()), 2),
        "also the smallest": details.two_sided_deltas,
        "loss of boxes": branches[1]._loss_type,
        "losses are divided by the positives of": "picture" if details.per_image_loss else "batch",
        "anchors in padding teach": not head.padding_ignored,
        "focal loss's prior at the start": not recipe.denseclip.config["official"],
        "candidates of a level": head.topk_candidates,
        "least score": head.score_thresh,
        "overlap of detections": head.nms_thresh,
        "detections": head.detections_per_img,
    }


def maskrcnn():
    recipe, net = built("maskrcnn")
    details, rpn, roi = read_details(recipe), net.head.rpn, net.head.roi_heads
    mask = [m for m in roi.mask_head.modules() if isinstance(m, nn.Conv2d)]
    net.train()
    before = [rpn.pre_nms_top_n(), rpn.post_nms_top_n()]
    net.eval()
    return anchors(rpn.anchor_generator) | {
        "proposals: overlap: from, below, least of a best anchor": matched(rpn.proposal_matcher),
        "proposals: deltas' deviations": deviations(rpn.box_coder),
        "proposals: examples, share of positive ones": [
            rpn.fg_bg_sampler.batch_size_per_image,
            rpn.fg_bg_sampler.positive_fraction,
        ],
        "proposals: candidates of a level, kept; training": before,
        "proposals: candidates of a level, kept; testing": [rpn.pre_nms_top_n(), rpn.post_nms_top_n()],
        "proposals: overlap of those kept": rpn.nms_thresh,
        "regions: overlap: from, below, least of a best region": matched(roi.proposal_matcher),
        "regions: examples, share of positive ones": [
            roi.fg_bg_sampler.batch_size_per_image,
            roi.fg_bg_sampler.positive_fraction,
        ],
        "regions: deltas' deviations": deviations(roi.box_coder),
        "regions: RoIAlign's sides": [roi.box_roi_pool.side, roi.mask_roi_pool.side],
        "regions: RoIAlign's samples, 0 for as many as pixels": roi.box_roi_pool.sampling,
        "regions: RoIAlign is aligned": roi.box_roi_pool.aligned,
        "regions: fully connected layers": [roi.box_head.fc6.out_features, roi.box_head.fc7.out_features],
        "regions: classes, numbers of their boxes": [
            roi.box_predictor.cls_score.out_features,
            roi.box_predictor.bbox_pred.out_features // 4,
        ],
        "loss of boxes": "l1" if rpn.beta == roi.beta == 0 else "smooth l1",
        "also the smallest": details.two_sided_deltas,
        "anchors in padding teach": not net.head.padding_ignored,
        "masks: convolutions and their channels": [len(mask), mask[0].out_channels],
        "masks: side": 2 * roi.mask_roi_pool.side,
        "masks: threshold": SURE,
        "least score": roi.score_thresh,
        "overlap of detections": roi.nms_thresh,
        "detections": roi.detections_per_img,
    }


def read_details(recipe):
    from denseclip.detection.config import DetectorConfig

    return DetectorConfig.from_dict(recipe.detection.config).details


def ours(kind):
    own = retinanet() if kind == "retinanet" else maskrcnn()
    return own | common(kind) | trained(kind)


def table():
    """Rows of the page, as the facts and our code have them."""
    found = {kind: ours(kind) for kind in KINDS}
    for fact in FACTS:
        kind = fact["of"]
        value = found["retinanet" if kind == "both" else kind][fact["what"]]
        same = f"{shown(value)}: {fact['why']}" if fact.get("why") else shown(value)
        yield f"| {NAMES[kind]} | {fact['what']} | {shown(fact['official'])} | {same} |"


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_is_the_official_one_or_says_why_not(kind):
    mine = ours(kind)
    facts = {fact["what"]: fact for fact in FACTS if fact["of"] in (kind, "both")}
    assert set(facts) == set(mine)
    for what, fact in facts.items():
        official = fact["official"]
        wanted = pytest.approx(official, abs=1e-4) if isinstance(official, float) else official
        assert (mine[what] == wanted) != bool(fact.get("why")), f"{what}: {mine[what]}, official {official}"


def test_the_page_shows_the_facts_and_our_values():
    lines = PAGE.partition("What is no number")[0].splitlines()
    assert [line for line in lines if line.startswith("| ")][1:] == list(table())
