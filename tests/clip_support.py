"""Small CLIPs with deterministic weights, for the tests of every part."""

import json
import math
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from denseclip.clip import Clip, load_clip
from fixtures_support import maskclip_weights

TEXT_WIDTH, TEXT_LAYERS, VOCABULARY, CONTEXT = 64, 2, 49408, 77
ARCHITECTURES = {  # the tiny ones of the model_* fixtures
    "rn": {"type": "rn", "layers": [1, 1, 1, 1], "width": 16, "out": 32, "image_size": 64},
    "vit": {"type": "vit", "layers": 3, "width": 64, "heads": 2, "patch": 16, "image_size": 64, "out": 32},
}


def openai_state(arch: dict[str, Any], seed: int, generator: str = "maskclip") -> dict[str, Tensor]:
    """A complete OpenAI-named state dict, float32.

    arch: {"type": "rn"|"vit", layers, width, out, image_size (rn: 224 unless given), and patch for a vit}, as
    in the fixtures' meta.
    generator: "maskclip": the image tower is exactly maskclip_weights.fill(shapes, seed). The text tower,
    which those fixtures do not have, is normal noise.
    """
    assert generator == "maskclip"
    if arch["type"] == "rn":
        size = arch.get("image_size", 224)  # the fixtures leave it out
        shapes = maskclip_weights.resnet_shapes(arch["layers"], arch["width"], arch["out"], size)
    else:
        shapes = maskclip_weights.vit_shapes(
            arch["width"], arch["layers"], arch["patch"], arch["image_size"], arch["out"]
        )
    state = {name: torch.from_numpy(array) for name, array in maskclip_weights.fill(shapes, seed).items()}
    return state | _text_state(arch["out"], seed)


def write_openai_checkpoint(path: Path, arch: dict[str, Any], seed: int, generator: str = "maskclip") -> Path:
    """Write `openai_state` as a plain .pt file that `load_clip(path, config=heads_config(arch))` reads."""
    torch.save(openai_state(arch, seed, generator), path)
    return path


def heads_config(arch: dict[str, Any]) -> dict[str, Any]:
    """The `config` for load_clip: the activation, and heads that are not 64 wide, cannot be seen in the weights."""
    channels = arch["width"] * (32 if arch["type"] == "rn" else 1)
    head_width = channels // arch["heads"] if "heads" in arch else 64
    return {"quick_gelu": True} | ({} if head_width == 64 else {"vision_cfg": {"head_width": head_width}})


def load_openai_checkpoint(arch: dict[str, Any], seed: int) -> Clip:
    """Write to a temporary file, load by the public way."""
    with tempfile.TemporaryDirectory() as folder:
        path = write_openai_checkpoint(Path(folder) / "clip.pt", arch, seed)
        return load_clip(path, config=heads_config(arch))


@cache
def tiny_clip(kind: str) -> Clip:
    """A loaded CLIP with small random weights, embedding 32, 64 px: "rn" (stride 32) or "vit" (patch 16)."""
    return load_openai_checkpoint(ARCHITECTURES[kind], seed=11)


def whole_config(kind: str) -> dict[str, Any]:
    """The open_clip model config of `tiny_clip(kind)`."""
    arch = ARCHITECTURES[kind]
    shared = {"width": arch["width"], "layers": arch["layers"], "image_size": 64}
    vision = shared | ({} if kind == "rn" else {"patch_size": 16, "head_width": 32})
    text = {"width": 64, "heads": 1, "layers": 2, "context_length": 77, "vocab_size": 49408}
    return {"embed_dim": 32, "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}


def write_embedded(path: Path, kind: str) -> Path:
    """A folder as the embedded CLIPs have it: half precision, config.json in open_clip's form."""
    path.mkdir()
    half = {
        n: t.half() if t.is_floating_point() else t
        for n, t in openai_state(ARCHITECTURES[kind], seed=11).items()
    }
    save_file(half, path / "model.safetensors")
    settings = {"model_cfg": whole_config(kind), "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (path / "config.json").write_text(json.dumps(settings))
    return path


def put_in_hub_cache(cache: Path, repository: str, filename: str) -> Path:
    """The layout of the Hugging Face cache."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("0123abc")
    path = root / "snapshots" / "0123abc" / filename
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def _text_state(embed_dim: int, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    w = TEXT_WIDTH
    state = {
        "token_embedding.weight": noise(VOCABULARY, w, scale=0.3),
        "positional_embedding": noise(CONTEXT, w, scale=0.1),
        "text_projection": noise(w, embed_dim, scale=w**-0.5),
        "ln_final.weight": 1 + noise(w, scale=0.1),
        "ln_final.bias": noise(w, scale=0.1),
        "logit_scale": torch.tensor(math.log(100.0)),
    }
    for i in range(TEXT_LAYERS):
        p = f"transformer.resblocks.{i}"
        for name, shape in (("attn.in_proj", (3 * w, w)), ("attn.out_proj", (w, w)),
                            ("mlp.c_fc", (4 * w, w)), ("mlp.c_proj", (w, 4 * w))):  # fmt: skip
            joint = "_" if name == "attn.in_proj" else "."
            state[f"{p}.{name}{joint}weight"] = noise(*shape, scale=shape[1] ** -0.5)
            state[f"{p}.{name}{joint}bias"] = noise(shape[0], scale=0.1)
        for norm in ("ln_1", "ln_2"):
            state[f"{p}.{norm}.weight"] = 1 + noise(w, scale=0.1)
            state[f"{p}.{norm}.bias"] = noise(w, scale=0.1)
    return state
