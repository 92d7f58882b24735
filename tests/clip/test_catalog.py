"""What `denseclip models` lists."""

import json
from pathlib import Path

import open_clip
import pytest
import torch

from clip_support import put_in_hub_cache, write_embedded
from denseclip.clip import pretrained
from denseclip.clip.pretrained import catalog, not_supported


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it, and no way out."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "OPENAI_CACHE", tmp_path / "plain")
    monkeypatch.setattr("denseclip.clip.config.ASSETS", tmp_path / "assets")
    monkeypatch.delattr(pretrained, "_hub_answers")
    (tmp_path / "assets").mkdir()
    return tmp_path


def test_openais_models_come_first_with_their_facts(machine: Path) -> None:
    rows = catalog()
    assert [row.model.removesuffix(":openai") for row in rows[:9]] == [
        "RN50", "RN101", "RN50x4", "RN50x16", "RN50x64", "ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336"
    ]  # fmt: skip
    by_name = {row.model: row for row in rows}
    assert len(by_name) == len(rows)
    vit = by_name["ViT-L-14-336:openai"]
    assert (vit.origin, vit.tower, vit.cell, vit.image_size, vit.embed_dim) == ("openai", "ViT", 14, 336, 768)
    resnet = by_name["RN50x4:openai"]
    assert (resnet.tower, resnet.cell, resnet.image_size, resnet.embed_dim) == ("ResNet", 32, 288, 640)
    assert not by_name["ViT-B-16:laion2b_s34b_b88k"].quick_gelu
    assert all(row.local is None and row.local_bytes is None for row in rows)
    assert not any("EVA" in name or "coca" in name or "quickgelu" in name for name in by_name)
    siglip = by_name["ViT-SO400M-14-SigLIP-384:webli"]
    assert (siglip.tower, siglip.cell, siglip.image_size, siglip.embed_dim) == ("ViT", 14, 384, 1152)


def test_what_does_not_work_is_told_with_the_reason() -> None:
    found = not_supported()
    assert "EVA02-B-16" in found["its image tower is the timm model"]
    assert "coca_ViT-B-32" in found["it is a CoCa model with attentional pooling"]
    assert sum(map(len, found.values())) < len(open_clip.list_models()) / 2


@pytest.mark.parametrize("name", ["RN50", "ViT-B-16", "ViT-H-14-CLIPA"])
def test_parameters_are_counted_right(machine: Path, name: str) -> None:
    config = open_clip.get_model_config(name)
    with torch.device("meta"):
        model = open_clip.CLIP(**{key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")})
    row = next(row for row in catalog() if row.model.startswith(f"{name}:"))
    assert row.parameters == sum(p.numel() for p in model.parameters()) - 1  # less logit_scale


def test_what_is_on_this_machine(machine: Path) -> None:
    write_embedded(machine / "assets" / "tiny-vit", "vit")
    weights = put_in_hub_cache(machine / "hub", "timm/resnet50_clip.openai", "open_clip_model.safetensors")
    rows = {row.model: row for row in catalog()}
    assert rows["RN50:openai"].local == weights
    assert rows["RN50:openai"].local_bytes == 7
    tiny = rows["tiny-vit"]
    assert (tiny.origin, tiny.tower, tiny.embed_dim) == ("embedded", "ViT", 32)
    assert tiny.local == machine / "assets" / "tiny-vit" / "model.safetensors"
    assert 2 * tiny.parameters < (tiny.local_bytes or 0) < 2 * tiny.parameters + 20_000
    assert "tiny-rn" not in rows


def test_transformers_folders_in_the_cache(machine: Path) -> None:
    vision, text = {"image_size": 224, "patch_size": 16}, {"vocab_size": 49408}
    for repository, kind in (("openai/clip-vit-base-patch16", "clip"), ("other/siglip", "siglip")):
        path = put_in_hub_cache(machine / "hub", repository, "model.safetensors").parent / "config.json"
        path.write_text(json.dumps({"model_type": kind, "vision_config": vision, "text_config": text}))
    found = [row for row in catalog() if row.origin == "transformers"]
    assert [(row.cell, row.embed_dim, row.quick_gelu) for row in found] == [(16, 512, True), (16, 768, False)]
    assert Path(found[0].model).is_dir()
    assert "clip-vit-base-patch16" in found[0].model
