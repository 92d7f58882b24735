"""Official checkpoints: every key accounted for, one-line errors."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_denseclip import CLASSES, RESNET, VIT, images, small, tokenize

import denseclip
from denseclip.clip.clip import OPENAI_STATS
from denseclip.data.transforms import normalize
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import build_denseclip
from denseclip.models.encoders import Heads, Shapes
from denseclip.models.official import load_official
from denseclip.text import class_set

HEADS = Heads(pool=4, vit=2, text=2, decoder=2)


@pytest.fixture(params=["resnet", "vit"])
def model(request):
    return small({"resnet": RESNET, "vit": VIT}[request.param], official=True)


@pytest.mark.parametrize("language", [True, False])
@pytest.mark.parametrize("shapes", [RESNET, VIT], ids=["resnet", "vit"])
def test_file_of_the_official_framework(tmp_path, shapes, language):
    ours = small(shapes, official=True, language=language)
    path = tmp_path / "latest.pth"
    meta = {"epoch": 1, "CLASSES": list(CLASSES)}
    torch.save({"meta": meta, "state_dict": ours.state_dict()}, path)
    loaded = load_official(path, CLASSES, tokenize=tokenize if language else None, heads=HEADS)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images()), ours(images()))
    assert loaded.config.official
    assert not loaded.training


def load(state, classes=CLASSES):
    return load_official(state, classes, tokenize=tokenize, heads=HEADS)


def test_counters_may_be_missing(model):
    state = {n: t for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    load(state)


def test_every_key_counts(model):
    state = model.state_dict()
    with pytest.raises(UserError, match=r"missing neck\.fpn_convs\.1\.conv\.bias; "):
        load({n: t for n, t in state.items() if n != "neck.fpn_convs.1.conv.bias"})
    with pytest.raises(UserError, match=r"unknown auxiliary_head\.conv\.bias"):
        load({**state, "auxiliary_head.conv.bias": torch.zeros(3)})
    with pytest.raises(UserError, match="gamma has shape"):
        load({**state, "gamma": torch.zeros(3)})
    with pytest.raises(UserError, match=r"has no decode_head\.conv_seg\.weight"):
        load({n: t for n, t in state.items() if n != "decode_head.conv_seg.weight"})
    with pytest.raises(UserError, match="has 3 classes, 2 names are given"):
        load(state, CLASSES[:2])


def test_longer_names_with_the_clip_it_came_from():
    from small_denseclip import from_clip

    from clip_support import tiny_clip

    clip = tiny_clip("rn")
    state = from_clip("rn", official=True).state_dict()
    name = "text_encoder.positional_embedding"
    state[name] = state[name][:9]  # 5 tokens of text and 4 contexts, as the official code has it
    heads = Heads(pool=clip.visual.pool.heads, text=clip.text.heads, decoder=2)
    long = ["cat", "tree", "a rather long name of a bus"]
    with pytest.raises(UserError, match="load the checkpoint together with its CLIP"):
        load_official(state, long, heads=heads)
    model = load_official(state, long, heads=heads, clip=clip)
    assert len(model.text_encoder.positional_embedding) == 77
    assert torch.isfinite(model(images())).all()


PUBLISHED = Shapes(
    {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 128},
    {"width": 64, "layers": 1, "heads": 1, "context_length": 13},
    24,
)


@pytest.mark.parametrize("language", [True, False])
def test_a_published_file_behind_a_segmenter(tmp_path, language):
    """Like any model: by its path, with ADE20K's names, and short other words by its score map."""
    torch.manual_seed(0)
    config = DenseClipConfig(official=True, language=language, fpn_channels=16, decoder_width=16, gamma=0.5)
    shapes = PUBLISHED if language else Shapes(PUBLISHED.vision, None, 0)
    ours = build_denseclip(config, shapes, class_set("ade")).eval()
    path = tmp_path / "denseclip_fpn.pth"
    torch.save({"meta": {"epoch": 1}, "state_dict": ours.state_dict()}, path)
    segmenter = denseclip.load(path, resize="none")
    assert len(segmenter.classes) == 150
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    with torch.no_grad():
        logits = ours(normalize(image, OPENAI_STATS.mean, OPENAI_STATS.std)[None])
    expected = F.interpolate(logits, (64, 96), mode="bilinear")[0].argmax(0).numpy()
    assert (segmenter.segment(image).mask == expected).mean() > 0.999
    if language:
        segmenter.set_classes(["zebra", "moss"])
        assert segmenter.segment(image).classes == ("zebra", "moss")
    else:
        with pytest.raises(UserError, match="without language"):
            segmenter.set_classes(["zebra"])


def test_a_file_of_another_data_set_is_refused(tmp_path):
    torch.save({"state_dict": small(official=True).state_dict()}, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: has 3 classes, 150 names"):
        denseclip.load(tmp_path / "x.pth")
