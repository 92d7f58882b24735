"""Official checkpoints: every key accounted for, one-line errors."""

import pytest
import torch
from small_denseclip import CLASSES, RESNET, VIT, images, small, tokenize

from denseclip.errors import UserError
from denseclip.nets.denseclip import load_official
from denseclip.nets.denseclip.shapes import Heads

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
    with pytest.raises(UserError, match=r"lacks neck\.fpn_convs\.1\.conv\.bias; "):
        load({n: t for n, t in state.items() if n != "neck.fpn_convs.1.conv.bias"})
    with pytest.raises(UserError, match=r"has the unknown auxiliary_head\.conv\.bias"):
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
    heads = Heads(pool=clip.image.pool.heads, text=clip.text.heads, decoder=2)
    long = ["cat", "tree", "a rather long name of a bus"]
    with pytest.raises(UserError, match="load the checkpoint together with its CLIP"):
        load_official(state, long, heads=heads)
    model = load_official(state, long, heads=heads, clip=clip)
    assert len(model.text_encoder.positional_embedding) == 77
    assert torch.isfinite(model(images())).all()
