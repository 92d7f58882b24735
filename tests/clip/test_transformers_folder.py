"""A `CLIPModel` folder gives the embeddings that transformers itself computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from denseclip.clip import VisionTransformer, load_clip
from denseclip.errors import UserError

transformers = pytest.importorskip("transformers")

VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3,
          "image_size": 32, "patch_size": 8}  # fmt: skip
TEXT = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
WORDS = ["a photo of a cat", "two red cars on the grass", "sky"]


def make(tmp_path: Path, **shared: Any) -> Any:
    torch.manual_seed(0)
    config = transformers.CLIPConfig(
        vision_config=VISION | shared,
        text_config=TEXT | shared,
        projection_dim=24,
        logit_scale_init_value=4.0,
    )
    model = transformers.CLIPModel(config).eval()
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.rand_like(parameter))
    model.logit_scale.data.fill_(4.0)
    model.save_pretrained(tmp_path)
    return model


def tensor(output: Any) -> Tensor:
    """Newer versions wrap the embedding."""
    return output if isinstance(output, Tensor) else output.pooler_output


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("pickled", [False, True])
def test_embeddings_are_those_of_transformers(tmp_path: Path, activation: str, pickled: bool) -> None:
    model = make(tmp_path, hidden_act=activation, layer_norm_eps=1e-4)
    if pickled:
        (tmp_path / "model.safetensors").unlink()
        extra = {
            f"{tower}_model.embeddings.position_ids": torch.arange(17)[None] for tower in ("text", "vision")
        }
        torch.save(model.state_dict() | extra, tmp_path / "pytorch_model.bin")
    clip = load_clip(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    tokens = clip.tokenizer(WORDS)
    with torch.no_grad():
        theirs = tensor(model.get_image_features(pixel_values=images))
        their_text = tensor(model.get_text_features(input_ids=tokens))
    torch.testing.assert_close(clip.encode_image(images), theirs, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(clip.encode_text(WORDS), their_text, atol=1e-5, rtol=1e-4)
    assert clip.quick_gelu == (activation == "quick_gelu")
    assert clip.logit_scale == pytest.approx(54.598, rel=1e-4)
    assert isinstance(clip.visual, VisionTransformer)
    assert clip.visual.heads == 3


def test_statistics_come_from_the_preprocessor(tmp_path: Path) -> None:
    make(tmp_path)
    assert load_clip(tmp_path).stats.mean[0] == pytest.approx(0.48145466)
    settings = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert load_clip(tmp_path).stats.mean == (0.1, 0.2, 0.3)
    assert load_clip(tmp_path / "model.safetensors").stats.std == (0.4, 0.5, 0.6)


def test_defaults_that_transformers_leaves_out(tmp_path: Path) -> None:
    make(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    for section, name in (("text_config", "hidden_act"), ("vision_config", "layer_norm_eps")):
        config[section].pop(name, None)
    path.write_text(json.dumps(config))
    assert load_clip(tmp_path).quick_gelu


def test_an_activation_that_the_folder_contradicts_is_refused(tmp_path: Path) -> None:
    make(tmp_path, hidden_act="quick_gelu")
    assert load_clip(tmp_path, activation="quick-gelu").quick_gelu
    with pytest.raises(UserError, match=r"its own configuration says QuickGELU; leave out --activation"):
        load_clip(tmp_path, activation="gelu")
