"""Our towers give open_clip's embeddings for the same weights."""

from pathlib import Path

import open_clip
import pytest
import torch

from clip_support import tiny_clip
from denseclip.clip import Clip, ResNet, load_clip

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 32}
RESNET_TINY = {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}
CONFIGS = {
    "vit": {"vision_cfg": VIT, "text_cfg": TEXT},
    "vit-quick": {"vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True},
    "vit-avg": {"vision_cfg": VIT | {"pool_type": "avg"}, "text_cfg": TEXT},
    "vit-clipa": {
        "vision_cfg": VIT | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
        "text_cfg": TEXT | {"pool_type": "last", "no_causal_mask": True},
    },
    "vit-layer-scale": {
        "vision_cfg": VIT | {"ls_init_value": 0.1, "mlp_ratio": 4.3},
        "text_cfg": TEXT | {"ls_init_value": 0.1, "proj_bias": True},
        "quick_gelu": True,
    },
    "vit-eps": {"vision_cfg": VIT | {"norm_kwargs": {"eps": 1e-3}}, "text_cfg": TEXT | {"heads": 4}},
    "rn": {"vision_cfg": RESNET, "text_cfg": TEXT},
    "rn-quick": {
        "vision_cfg": RESNET,
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407},
        "quick_gelu": True,
    },
}
SENTENCES = ["a photo of a cat", "two red cars on the grass, seen from above", "sky"]


@pytest.fixture(params=list(CONFIGS))
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[torch.nn.Module, Clip]:
    """open_clip's model and ours with the same weights, none of them left at its initial value."""
    torch.manual_seed(0)
    config = {"embed_dim": 24, **CONFIGS[request.param]}
    model = open_clip.CLIP(**config).eval()
    for tensor in (*model.parameters(), *(b for n, b in model.named_buffers() if "running" in n)):
        tensor.data.add_(0.1 * torch.rand_like(tensor))
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    return model, load_clip(tmp_path / "clip.pt", config={"quick_gelu": False, **config})


def test_image_embedding_is_open_clips(pair: tuple[torch.nn.Module, Clip]) -> None:
    model, clip = pair
    images = torch.randn(3, 3, clip.image_size, clip.image_size)
    with torch.no_grad():
        theirs = model.encode_image(images)
    torch.testing.assert_close(clip.encode_image(images), theirs, atol=1e-5, rtol=1e-4)


def test_text_embedding_is_open_clips(pair: tuple[torch.nn.Module, Clip]) -> None:
    model, clip = pair
    tokens = open_clip.tokenizer.tokenize(SENTENCES, context_length=TEXT["context_length"])
    with torch.no_grad():
        theirs = model.encode_text(tokens)
    assert len({tuple(row.tolist()) for row in theirs}) == len(SENTENCES)
    torch.testing.assert_close(clip.encode_text(SENTENCES), theirs, atol=1e-5, rtol=1e-4)


def test_maps_of_any_size_are_open_clips() -> None:
    tower, theirs = tiny_clip("rn").visual, open_clip.CLIP(32, {**RESNET_TINY}, TEXT).visual.eval()
    assert isinstance(tower, ResNet)
    theirs.load_state_dict(tower.state_dict())
    images = torch.randn(1, 3, 101, 70)
    with torch.no_grad():
        maps = tower.maps(images)
        expected = theirs.forward_intermediates(images, intermediates_only=True)["image_intermediates"]
    assert [m.shape for m in maps] == [(1, 64, 25, 17), (1, 128, 12, 8), (1, 256, 6, 4), (1, 512, 3, 2)]
    for mine, their in zip(maps, expected[1:], strict=True):
        torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-4)
    assert torch.equal(tower.last_map(images), maps[-1])
