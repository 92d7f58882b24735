"""A loaded CLIP: precision, device, fingerprint, tokens, what it says of itself."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from clip_support import ARCHITECTURES, load_openai_checkpoint, openai_state, tiny_clip
from denseclip.clip import load_clip


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_frozen_and_in_eval_mode(kind: str) -> None:
    clip = tiny_clip(kind)
    for tower in (clip.visual, clip.text):
        assert not tower.training
        assert not any(parameter.requires_grad for parameter in tower.parameters())
    assert not clip.encode_text(["a cat"]).requires_grad


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_lower_precision_is_a_close_copy(kind: str) -> None:
    clip = tiny_clip(kind)
    half = deepcopy(clip).to(dtype=torch.bfloat16)
    images = torch.randn(2, 3, 64, 64)
    assert (clip.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    words = ["a cat", "a dog"]
    for full, low in (
        (clip.encode_image(images), half.encode_image(images)),
        (clip.encode_text(words), half.encode_text(words)),
    ):
        assert low.dtype == torch.bfloat16
        assert torch.cosine_similarity(full, low.float()).min() > 0.99


def test_batch_norms_stay_float32_and_convolutions_channels_last() -> None:
    half = deepcopy(tiny_clip("rn")).to(dtype=torch.bfloat16)
    norms = [m for m in half.visual.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {t.dtype for m in norms for t in (m.weight, m.running_mean)} == {torch.float32}
    convolutions = [m for m in half.visual.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)


def test_fingerprint_keeps_through_precision_and_tells_weights_apart() -> None:
    clip = tiny_clip("vit")
    assert len(clip.fingerprint) == 64
    assert deepcopy(clip).half().fingerprint == clip.fingerprint
    assert load_openai_checkpoint(ARCHITECTURES["vit"], seed=11).fingerprint == clip.fingerprint
    assert load_openai_checkpoint(ARCHITECTURES["vit"], seed=12).fingerprint != clip.fingerprint


@pytest.mark.parametrize(
    "config", [{"quick_gelu": False}, {"vision_cfg": {"head_width": 16}}, {"text_cfg": {"heads": 2}}]
)
def test_fingerprint_tells_uses_of_the_same_weights_apart(tmp_path, config) -> None:
    path = tmp_path / "clip.pt"
    torch.save(openai_state(ARCHITECTURES["vit"], seed=11), path)
    quick = {"quick_gelu": True}
    assert load_clip(path, config=quick | config).fingerprint != load_clip(path, config=quick).fingerprint


def test_one_changed_number_changes_the_fingerprint(tmp_path) -> None:
    state = openai_state(ARCHITECTURES["rn"], seed=11)
    state["visual.layer2.0.bn1.running_mean"][3] += 1e-3
    torch.save(state, tmp_path / "clip.pt")
    changed = load_clip(tmp_path / "clip.pt", activation="quick-gelu")
    assert changed.fingerprint != tiny_clip("rn").fingerprint


def test_token_lengths_count_what_would_be_cut() -> None:
    clip = tiny_clip("vit")
    assert clip.token_lengths(["cat", "a photo of a cat.", ""]) == [3, 8, 2]
    assert clip.token_lengths(["cat " * 200]) == [202]
    assert clip.text.context_length == 77


def test_text_needs_no_padding_and_long_text_is_cut_at_the_end() -> None:
    clip = tiny_clip("vit")
    sentences = ["cat", "a photo of a small cat on the grass", "sky " * 100]
    together = clip.encode_text(sentences)
    alone = torch.cat([clip.encode_text([sentence]) for sentence in sentences])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.encode_text(["sky " * 75]), together[2:], atol=1e-5, rtol=1e-4)
    assert clip.encode_text([]).shape == (0, clip.embed_dim)


def test_gradients_can_flow_through_constant_text() -> None:
    """Class embeddings are constants of a loss: they must not be inference tensors."""
    text = tiny_clip("rn").encode_text(["cat"])
    feature = torch.randn(1, text.shape[1], requires_grad=True)
    (feature @ text.T).sum().backward()
    assert feature.grad is not None


def test_describe_names_what_a_result_depends_on() -> None:
    line = tiny_clip("vit").describe()
    for part in (
        "ViT, patch 16",
        "64 px",
        "embedding 32",
        "QuickGELU",
        "mean 0.4815",
        "M parameters",
        "float32 on cpu",
    ):
        assert part in line
    assert "\n" not in line
    assert "ResNet, stride 32" in tiny_clip("rn").describe()
    assert tiny_clip("rn").logit_scale == pytest.approx(100.0, rel=1e-4)
