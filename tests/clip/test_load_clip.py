"""Every kind of file and folder that holds a CLIP gives the same CLIP."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clip_support import (
    ARCHITECTURES,
    heads_config,
    openai_state,
    tiny_clip,
    whole_config,
    write_embedded,
    write_openai_checkpoint,
)
from denseclip.clip import Clip, ResNet, VisionTransformer, load_clip
from fixtures_support import maskclip_weights

KINDS = ["rn", "vit"]


def state_of(kind: str) -> dict[str, Tensor]:
    return openai_state(ARCHITECTURES[kind], seed=11)


def config_of(kind: str) -> dict[str, Any]:
    return heads_config(ARCHITECTURES[kind])


def assert_same(clip: Clip, kind: str) -> None:
    reference = tiny_clip(kind)
    assert clip.fingerprint == reference.fingerprint
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(clip.encode_image(images), reference.encode_image(images))
    assert torch.equal(clip.encode_text(["a cat"]), reference.encode_text(["a cat"]))


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's newer naming."""
    return {n if n.startswith(("visual.", "logit_scale")) else f"text.{n}": t for n, t in state.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_architecture_and_facts_come_from_the_weights(tmp_path: Path, kind: str) -> None:
    clip = load_clip(
        write_openai_checkpoint(tmp_path / "clip.pt", ARCHITECTURES[kind], 11), config=config_of(kind)
    )
    assert isinstance(clip.visual, ResNet if kind == "rn" else VisionTransformer)
    assert (clip.image_size, clip.embed_dim, clip.quick_gelu) == (64, 32, True)
    assert clip.stats.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert (clip.text.context_length, clip.text.token_embedding.num_embeddings, clip.text.heads) == (
        77,
        49408,
        1,
    )
    assert clip.visual.grid == ((2, 2) if kind == "rn" else (4, 4))
    assert clip.name == str(tmp_path / "clip.pt")
    if kind == "vit":
        assert (clip.visual.patch_size, clip.visual.heads, len(clip.visual.transformer.blocks)) == (16, 2, 3)


def test_released_shapes_are_recognized() -> None:
    """RN50 and ViT-B/16 from shapes alone, as OpenAI's build_model does; no values are needed."""
    from denseclip.clip.config import infer

    def meta(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
        text = {"text." + n: t for n, t in state_of("rn").items() if not n.startswith(("visual", "logit"))}
        text["text.text_projection"] = torch.empty(64, 512, device="meta")
        return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()} | text

    resnet = infer(meta(maskclip_weights.resnet_shapes((3, 4, 6, 3), 64, 1024)), "RN50")
    vit = infer(meta(maskclip_weights.vit_shapes(768, 12, 16, 224, 512)), "ViT")
    assert resnet["vision_cfg"] == {"layers": [3, 4, 6, 3], "width": 64, "image_size": 224}
    expected = {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224, "no_ln_pre": False}
    assert vit["vision_cfg"] == {**expected, "mlp_ratio": 4.0}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wrapping", ["state_dict", "state_dict, module."])
def test_wrapped_state_dict(tmp_path: Path, kind: str, wrapping: str) -> None:
    prefix = "module." if "module." in wrapping else ""
    torch.save({"state_dict": {prefix + n: t for n, t in state_of(kind).items()}}, tmp_path / "clip.pth")
    assert_same(load_clip(tmp_path / "clip.pth", config=config_of(kind)), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_torchscript_archive_in_half_precision(tmp_path: Path, kind: str) -> None:
    half = {n: t.half() if t.is_floating_point() else t for n, t in state_of(kind).items()}
    torch.save(half, tmp_path / "plain.pt")
    _save_torchscript(half, tmp_path / "archive.pt")
    config = config_of(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        archive = load_clip(tmp_path / "archive.pt", config=config)
    assert archive.quick_gelu
    assert archive.dtype == torch.float32
    assert archive.fingerprint == load_clip(tmp_path / "plain.pt", config=config).fingerprint
    assert archive.fingerprint != tiny_clip(kind).fingerprint  # rounded to half
    images = torch.randn(1, 3, 64, 64)
    close = torch.cosine_similarity(archive.encode_image(images), tiny_clip(kind).encode_image(images))
    assert close > 0.999


@pytest.mark.parametrize("naming", [dict, renamed])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_open_clip_file_with_config(tmp_path: Path, suffix: str, naming: Any) -> None:
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(naming(state_of("vit")), path)
    assert_same(load_clip(path, config=config_of("vit")), "vit")
    assert_same(load_clip(path, config=whole_config("vit")), "vit")
    exact = load_clip(path, config=config_of("vit") | {"quick_gelu": False})
    assert not exact.quick_gelu
    assert not torch.equal(exact.encode_text(["a cat"]), tiny_clip("vit").encode_text(["a cat"]))


def test_training_checkpoint_of_open_clip(tmp_path: Path) -> None:
    wrapped = {"epoch": 3, "name": "run", "state_dict": {f"module.{n}": t for n, t in state_of("rn").items()}}
    torch.save(wrapped | {"optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}}, tmp_path / "epoch_3.pt")
    assert_same(load_clip(tmp_path / "epoch_3.pt", config={"quick_gelu": True}), "rn")


@pytest.mark.parametrize("weights", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_open_clip_folder(tmp_path: Path, weights: str) -> None:
    (save_file if weights.endswith("safetensors") else torch.save)(state_of("vit"), tmp_path / weights)
    settings = {
        "model_cfg": whole_config("vit"),
        "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(settings))
    clip = load_clip(tmp_path)
    assert_same(clip, "vit")
    assert clip.stats.mean == (0.5, 0.4, 0.3)
    assert clip.stats.std == (0.1, 0.2, 0.3)
    assert_same(load_clip(str(tmp_path / weights)), "vit")  # the file finds the configuration beside it


def test_config_of_the_caller_wins_over_the_folder(tmp_path: Path) -> None:
    save_file(state_of("vit"), tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": whole_config("vit")}))
    settings = {"model_cfg": {"quick_gelu": False}, "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1]}}
    clip = load_clip(tmp_path, config=settings)
    assert not clip.quick_gelu
    assert clip.stats.std == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("name", ["tiny-rn", "tiny-vit"])
def test_embedded_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    kind = name.removeprefix("tiny-")
    monkeypatch.setattr("denseclip.clip.config.ASSETS", tmp_path)
    write_embedded(tmp_path / name, kind)
    clip = load_clip(name)
    half = {n: t.half() if t.is_floating_point() else t for n, t in state_of(kind).items()}
    torch.save(half, tmp_path / "clip.pt")
    assert clip.name == name
    assert clip.dtype == torch.float32
    assert clip.stats.mean == (0.5, 0.5, 0.5)
    assert clip.fingerprint == load_clip(tmp_path / "clip.pt", config=config_of(kind)).fingerprint


def test_counters_of_batch_norms_may_be_missing(tmp_path: Path) -> None:
    state = {n: t for n, t in state_of("rn").items() if not n.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "clip.pt")
    assert_same(load_clip(tmp_path / "clip.pt", activation="quick-gelu"), "rn")


def test_device_and_precision(tmp_path: Path) -> None:
    path = write_openai_checkpoint(tmp_path / "clip.pt", ARCHITECTURES["rn"], 11)
    clip = load_clip(path, dtype=torch.bfloat16, activation="quick-gelu")
    assert clip.dtype == torch.bfloat16
    assert clip.fingerprint == tiny_clip("rn").fingerprint


class _Holder(nn.Module):
    """A module tree with given names; its forward does nothing of interest."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _save_torchscript(state: dict[str, Tensor], path: Path) -> None:
    """As OpenAI's archives: weights by name, and three numbers that are no weights."""
    root = _Holder()
    numbers = {"input_resolution": 64, "context_length": 77, "vocab_size": 49408}
    for name, tensor in (state | {n: torch.tensor(v) for n, v in numbers.items()}).items():
        *owners, leaf = name.split(".")
        module: nn.Module = root
        for owner in owners:
            if owner not in module._modules:
                module.add_module(owner, _Holder())
            module = module._modules[owner]  # type: ignore[assignment]
        module.register_buffer(leaf, tensor)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(root).save(str(path))
