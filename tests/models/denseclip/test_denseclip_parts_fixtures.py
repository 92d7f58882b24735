"""Equality of single parts: text encoders, context decoder, patch-8 pyramid, position tables, detection guidance."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from denseclip_cases import GRADIENT, Case, deviation, state_of

from denseclip.clip.build import text_tower
from denseclip.clip.clip import tokenizer_for
from denseclip.clip.transformer import resize_positions
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseCLIPBase
from denseclip.models.encoders import (
    Shapes,
    VitEncoder,
    infer_shapes,
)
from denseclip.models.fpn import ContextDecoder, Fpn
from fixtures_support import cases, denseclip_weights

pytestmark = pytest.mark.fixtures
FORWARD = 3e-5


def load(path):
    arrays = np.load(path.with_suffix(".npz"))
    return json.loads(path.read_text()), {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.mark.parametrize("path", cases("denseclip", "text_*.json"), ids=lambda p: p.stem)
def test_text_encoders(path):
    meta, arrays = load(path)
    c = meta["config"]
    for rows, manifest, wanted, contexts in (
        (c["context_length"], "manifest", "text_embeddings", None),
        (c["total_with_contexts"], "manifest_context_encoder", "context_embeddings", arrays["contexts"]),
    ):
        sizes = {name: c[name] for name in ("width", "layers", "heads")}
        sizes |= {"context_length": rows, "vocab_size": c["vocab"]}
        encoder = text_tower(sizes, c["embed"], True).eval()
        encoder.load_state_dict(state_of(meta[manifest], meta["seed"]), strict=True)
        with torch.no_grad():
            assert deviation(encoder(arrays["texts"], contexts), arrays[wanted]) < FORWARD


@pytest.mark.parametrize("path", cases("denseclip", "misc_*.json"), ids=lambda p: p.stem)
def test_position_tables_at_load_time(path):
    _, arrays = load(path)
    tables = [name for name in arrays if name.startswith("pos") and name != "pos7"]
    assert tables
    for name in tables:
        side = int(name.removeprefix("pos"))
        assert deviation(resize_positions(arrays["pos7"], (side, side), "bilinear"), arrays[name]) < FORWARD


@pytest.mark.parametrize("path", cases("denseclip", "misc_*.json"), ids=lambda p: p.stem)
def test_context_decoder_alone(path):
    meta, arrays = load(path)
    state = state_of(meta["manifest_context_decoder"], meta["seed"])
    width, dim = state["text_proj.1.weight"].shape
    layers = len({name.split(".")[1] for name in state if name.startswith("decoder.")})
    decoder = ContextDecoder(dim, dim, width=width, heads=4, layers=layers, dropout=0.1).eval()
    decoder.load_state_dict(state, strict=True)
    with torch.no_grad():
        assert deviation(decoder(arrays["cd_text"], arrays["cd_visual"]), arrays["cd_out"]) < FORWARD


@pytest.mark.parametrize("path", cases("denseclip", "misc_*.json"), ids=lambda p: p.stem)
def test_pyramid_of_patches_of_8(path):
    meta, arrays = load(path)
    state = state_of(meta["manifest_vit8"], meta["seed"])
    shapes = infer_shapes({f"backbone.{name}": tensor for name, tensor in state.items()})
    errors = {}
    wide = shapes.vision["width"]
    heads = [h for h in (4, 2, 3) if wide % h == 0]  # not in the case's description
    for h in heads:
        sizes = replace(shapes, vision={**shapes.vision, "head_width": wide // h})
        trunk = VitEncoder(sizes, state["proj"].shape[1], DenseClipConfig(official=True)).eval()
        trunk.load_state_dict(state, strict=True)
        height, width = (8 * side for side in arrays["vit8_local"].shape[-2:])
        batch = len(arrays["vit8_local"])
        image = denseclip_weights.image((batch, 3, height, width), meta["seed"], "input:image")
        with torch.no_grad():
            out = trunk(torch.from_numpy(image))
        ours = {f"vit8_feat{i}": one for i, one in enumerate(out.maps)}
        ours |= {"vit8_global": out.global_feature, "vit8_local": out.dense_feature}
        errors[h] = max(deviation(one, arrays[name]) for name, one in ours.items())
    assert min(errors.values()) < FORWARD, errors


@pytest.fixture(scope="module", params=cases("denseclip", "det_*.json"), ids=lambda p: p.stem)
def detection(request):
    return Case(request.param)


def test_detection_shares_the_guidance(detection):
    case = detection
    shapes: Shapes = infer_shapes(case.state, case.heads)
    config = DenseClipConfig(
        official=True,
        positions="crop",
        score_logits=True,
        contexts=case.state["contexts"].shape[1],
        decoder_width=case.config["cd_width"],
        decoder_heads=case.config["cd_heads"],
        decoder_layers=case.config["cd_layers"],
        aux_weight=1.0,
    )
    model = DenseCLIPBase(config, shapes, case.meta["class_names"], case.tokenize).eval()
    retina = case.meta["task"] == "retinanet"
    extra = {"start": 1, "outputs": 5} if retina else {"outputs": 5, "extra": "subsample"}
    model.neck = Fpn(model.map_channels, case.config["fpn"], **extra)
    model.load_state_dict(case.state, strict=True)
    guidance = model.forward_features(case.images)
    logits = guidance.scores / config.tau
    case.close("score_map3", logits)
    finer = F.interpolate(logits, case["score_map0"].shape[-2:], mode="bilinear", align_corners=False)
    case.close("score_map0", finer)
    case.close("neck_in3", guidance.maps[3])
    for i, one in enumerate(model.neck(guidance.maps)):
        case.close(f"neck{i}", one)
    mask, target = case["seg_mask"].expand_as(finer).bool(), case["seg_target"].float()
    F.binary_cross_entropy_with_logits(finer[mask], target[mask]).backward()
    parameters = dict(model.named_parameters())
    for name in case.arrays:
        if name.startswith("grad:"):
            case.close(name, parameters[name.removeprefix("grad:")].grad, GRADIENT)


@pytest.mark.parametrize("path", cases("denseclip", "class_tokens*.json"), ids=lambda p: p.stem)
def test_tokens_of_the_published_class_names(path):
    tokenize = tokenizer_for({}, "CLIP")
    for of in json.loads(path.read_text()).values():
        tokens = tokenize(of["class_names"])
        assert tokens[:, :5].tolist() == of["tokens"]
        assert not tokens[:, 5:].any()
