"""The pieces that the towers hand out, put together by hand, must give open_clip's own embeddings."""

from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from clip_support import tiny_clip
from denseclip.clip import BlockWeights, Clip, ResNetTower, TextTower, ViTTower, load_clip

TEXT = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "patch_size": 8, "width": 48, "head_width": 16, "layers": 2}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "head_width": 32}
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
        by_hand = _image_by_hand(clip.image, images, model)
    torch.testing.assert_close(clip.encode_image(images), theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_hand, theirs, atol=1e-5, rtol=1e-4)


def test_text_embedding_is_open_clips(pair: tuple[torch.nn.Module, Clip]) -> None:
    model, clip = pair
    tokens = open_clip.tokenizer.tokenize(SENTENCES, context_length=TEXT["context_length"])
    with torch.no_grad():
        theirs = model.encode_text(tokens)
        by_hand = _text_by_hand(clip.text, tokens)
    assert len({tuple(row.tolist()) for row in theirs}) == len(SENTENCES)
    torch.testing.assert_close(clip.encode_text(SENTENCES), theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_hand, theirs, atol=1e-5, rtol=1e-4)


def test_stages_are_the_four_maps_at_any_size() -> None:
    tower = tiny_clip("rn").image
    assert isinstance(tower, ResNetTower)
    images = torch.randn(1, 3, 101, 70)
    maps = tower.stages(images)
    theirs = tower.visual.forward_intermediates(images, intermediates_only=True)["image_intermediates"]
    assert [m.shape for m in maps] == [(1, 64, 25, 17), (1, 128, 12, 8), (1, 256, 6, 4), (1, 512, 3, 2)]
    for mine, their in zip(maps, theirs[1:], strict=True):
        torch.testing.assert_close(mine, their, atol=1e-5, rtol=1e-4)
    assert torch.equal(tower.trunk(images), maps[-1])


def test_pieces_follow_a_change_of_precision() -> None:
    clip = tiny_clip("vit").to(dtype=torch.bfloat16)
    assert isinstance(clip.image, ViTTower)
    assert clip.image.blocks[0].in_proj_weight.dtype == torch.bfloat16
    assert clip.image.ln_post.weight.dtype == torch.bfloat16
    assert clip.text.blocks[-1].proj_bias.dtype == torch.bfloat16


def _block_by_hand(block: BlockWeights, x: Tensor, heads: int, quick: bool, mask: Tensor | None) -> Tensor:
    """Batch first: the tokens are axis 1."""
    b, n, w = x.shape
    qkv = block.ln_1(x) @ block.in_proj_weight.T + block.in_proj_bias
    q, k, v = (part.reshape(b, n, heads, w // heads).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    scores = q @ k.transpose(-1, -2) * (w // heads) ** -0.5
    attention = (scores if mask is None else scores + mask).softmax(dim=-1)
    mixed = (attention @ v).transpose(1, 2).reshape(b, n, w) @ block.out_weight.T + block.out_bias
    x = x + (mixed if block.ls_1 is None else mixed * block.ls_1)
    hidden = block.ln_2(x) @ block.fc_weight.T + block.fc_bias
    hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden)
    out = hidden @ block.proj_weight.T + block.proj_bias
    return x + (out if block.ls_2 is None else out * block.ls_2)


def _image_by_hand(tower: ViTTower | ResNetTower, images: Tensor, model: torch.nn.Module) -> Tensor:
    if isinstance(tower, ResNetTower):
        return _attention_pool_by_hand(tower, tower.trunk(images))
    tokens = tower.patch(images)
    assert tokens.shape == (len(images), tower.grid[0] * tower.grid[1], tower.width)
    x = torch.cat([tower.class_embedding.expand(len(images), 1, -1), tokens], dim=1)
    x = x + tower.positional_embedding
    x = x if tower.ln_pre is None else tower.ln_pre(x)
    for block in tower.blocks:
        x = _block_by_hand(block, x, tower.heads, tower.quick_gelu, None)
    pooled = x[:, 0] if tower.pool == "tok" else x[:, 1:].mean(dim=1)
    if tower.pool == "avg" and not model.visual.final_ln_after_pool:
        return tower.ln_post(x)[:, 1:].mean(dim=1) @ tower.proj
    return tower.ln_post(pooled) @ tower.proj


def _attention_pool_by_hand(tower: ResNetTower, x: Tensor) -> Tensor:
    pool = tower.pool
    tokens = x.flatten(2).transpose(1, 2)  # (B, hw, C)
    tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1) + pool.positional_embedding
    b, n, c = tokens.shape
    q, k, v = (
        (tokens @ weight.T + bias).reshape(b, n, pool.heads, -1).transpose(1, 2)
        for weight, bias in (
            (pool.q_weight, pool.q_bias), (pool.k_weight, pool.k_bias), (pool.v_weight, pool.v_bias)
        )
    )  # fmt: skip
    attention = (q @ k.transpose(-1, -2) * (c // pool.heads) ** -0.5).softmax(dim=-1)
    mixed = (attention @ v).transpose(1, 2).reshape(b, n, c)
    return (mixed @ pool.c_weight.T + pool.c_bias)[:, 0]


def _text_by_hand(tower: TextTower, tokens: Tensor) -> Tensor:
    n = tokens.shape[1]
    x = tower.token_embedding[tokens] + tower.positional_embedding
    mask = torch.full((n, n), -torch.inf).triu(1) if tower.causal else None
    for block in tower.blocks:
        x = _block_by_hand(block, x, tower.heads, tower.quick_gelu, mask)
    ends = (
        torch.full((len(tokens),), n - 1) if tower.pool == "last" else (tokens == 49407).int().argmax(dim=1)
    )
    return tower.project(tower.ln_final(x)[torch.arange(len(tokens)), ends])
