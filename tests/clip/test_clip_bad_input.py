"""What the user sees when a CLIP cannot be loaded: one line, what is wrong and what to do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from clip_support import ARCHITECTURES, openai_state, whole_config
from denseclip.clip import load_clip, pretrained
from denseclip.errors import UserError

Arguments = tuple[str | Path, dict[str, Any]]


def pt(tmp: Path, content: Any, name: str = "clip.pt") -> Path:
    torch.save(content, tmp / name)
    return tmp / name


def raw(tmp: Path, content: bytes, name: str = "clip.pt") -> Path:
    (tmp / name).write_bytes(content)
    return tmp / name


def changed(kind: str = "vit", **changes: Tensor | None) -> dict[str, Tensor]:
    """A good state dict with tensors replaced, added or (None) removed; "__" stands for a dot."""
    state = openai_state(ARCHITECTURES[kind], 11)
    for name, tensor in changes.items():
        state.pop(name.replace("__", "."), None)
        if tensor is not None:
            state[name.replace("__", ".")] = tensor
    return state


def truncated(tmp: Path, name: str) -> Path:
    state = openai_state(ARCHITECTURES["vit"], 11)
    (save_file if name.endswith("safetensors") else torch.save)(state, tmp / name)
    content = (tmp / name).read_bytes()
    return raw(tmp, content[: len(content) // 2], name)


def folder_with(tmp: Path, **files: Any) -> Path:
    for stem, content in files.items():
        (tmp / f"{stem}.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return tmp


def weights_in(tmp: Path, name: str, state: dict[str, Tensor] | None = None) -> Path:
    save_file(state or openai_state(ARCHITECTURES["vit"], 11), tmp / name)
    return tmp


def hugging_face(tmp: Path, **config: Any) -> Path:
    weights_in(tmp, "model.safetensors", {"text_model.x": torch.zeros(1), "vision_model.x": torch.zeros(1)})
    return folder_with(tmp, config={"model_type": "clip", **config})


def half_written(tmp: Path) -> Path:
    """One NaN, as a run that diverged leaves it."""
    state = changed()
    state["visual.proj"][0, 0] = torch.nan
    return pt(tmp, state)


TABLE: dict[str, tuple[Callable[[Path], str | Path | Arguments], str]] = {
    # names
    "unknown name": (lambda _: "ViT-B-17", "ViT-B-17: no such model or file; did you mean ViT-B-16 or .*"),
    "hopeless name": (lambda _: "qqq", "qqq: no such model or file; `denseclip models` lists all models"),
    "no name": (lambda _: "", "'': no such model or file; `denseclip models` lists all models"),
    "unknown tag": (
        lambda _: ("RN50", {"pretrained": "laion"}),
        "RN50: no weights 'laion' for it; choose one of RN50:openai, RN50:yfcc15m, RN50:cc12m",
    ),
    "tag twice": (
        lambda _: ("RN50:openai", {"pretrained": "cc12m"}),
        "RN50:openai: pretrained='cc12m' names the weights a second time; give the tag once",
    ),
    "several tags": (
        lambda _: "ViT-H-14",
        "ViT-H-14: there are several weights for it; choose one of ViT-H-14:laion2b_s32b_b79k, .*",
    ),
    "no weights anywhere": (
        lambda _: "ViT-S-16",
        "ViT-S-16: open_clip has no weights for it; pass the path of a file with its weights",
    ),
    "timm tower": (
        lambda _: "EVA02-B-16",
        "EVA02-B-16: its image tower is the timm model eva02_base_patch16_clip_224; "
        "CLIP's ResNets and plain ViTs work, and SigLIP's, `denseclip models` lists them",
    ),
    "CoCa": (
        lambda _: "coca_ViT-B-32",
        "coca_ViT-B-32: it is a CoCa model with attentional pooling; CLIP's ResNets and .*",
    ),
    "transformers text": (
        lambda _: "roberta-ViT-B-32:laion2b_s12b_b32k",
        "roberta-ViT-B-32: its text tower is the transformers model roberta-base; CLIP's ResNets .*",
    ),
    "no network, OpenAI": (
        lambda _: "ViT-B/16",
        "ViT-B-16:openai: the weights are not on this machine and cannot be downloaded; fetch "
        r"https://\S+/ViT-B-16\.pt by other means and pass the path of the file as the model",
    ),
    "no network, hub": (
        lambda _: "ViT-B-16:laion2b_s34b_b88k",
        r"ViT-B-16:laion2b_s34b_b88k: .* cannot be downloaded; fetch open_clip_config\.json and "
        r"open_clip_model\.safetensors or open_clip_pytorch_model\.bin of huggingface\.co/laion/"
        r"CLIP-ViT-B-16-laion2B-s34B-b88K by other means into one folder and pass the path of the folder .*",
    ),
    "not trained yet": (
        lambda _: "tiny-rn",
        "tiny-rn: its weights are not in this installation; install it again, or train them with "
        r"`python -m tools\.train_tiny tiny-rn --run runs/tiny-rn` in a checkout and copy them in",
    ),
    "config with a name": (
        lambda _: ("RN50", {"config": {"quick_gelu": True}}),
        "RN50: its configuration is known; config= and activation go with a file, leave them out",
    ),
    # files that are not weights
    "no such file": (lambda tmp: tmp / "gone.pt", r".*gone\.pt: no such file; check the path"),
    "tag with a file": (
        lambda tmp: (pt(tmp, {}), {"pretrained": "openai"}),
        r".*clip\.pt: pretrained='openai' goes with open_clip's names, not with this; leave it out",
    ),
    "empty file": (lambda tmp: raw(tmp, b""), r".*clip\.pt: the file is empty; fetch the file again"),
    "git-lfs pointer": (
        lambda tmp: raw(
            tmp, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "m.safetensors"
        ),
        r".*m\.safetensors: a git-lfs pointer, not the weights; run `git lfs pull` in its repository",
    ),
    "web page": (
        lambda tmp: raw(tmp, b"\n<!DOCTYPE html><html><body>Sign in</body></html>"),
        r".*clip\.pt: a web page, not weights; fetch the file itself, by its download link",
    ),
    "text file": (
        lambda tmp: raw(tmp, b"just some words"),
        r".*clip\.pt: not a checkpoint; pass a \.pt, \.pth, \.bin or \.safetensors file with CLIP weights",
    ),
    "truncated zip": (
        lambda tmp: truncated(tmp, "clip.pt"),
        r".*clip\.pt: damaged or truncated \([\d,]+ bytes\); fetch the file again",
    ),
    "truncated safetensors": (
        lambda tmp: truncated(tmp, "clip.safetensors"),
        r".*clip\.safetensors: damaged, truncated or not safetensors \([\d,]+ bytes\); fetch the file again",
    ),
    "truncated old pickle": (
        lambda tmp: raw(tmp, b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M"),
        r".*clip\.pt: damaged or truncated \(\d+ bytes\); fetch the file again",
    ),
    "another zip": (
        lambda tmp: raw(tmp, b"PK\x05\x06" + bytes(18)),
        r".*clip\.pt: a zip file without PyTorch weights; pass the checkpoint inside it",
    ),
    "pickled module": (
        lambda tmp: pt(tmp, nn.Linear(2, 2)),
        r".*clip\.pt: holds Python objects besides tensors, which are not run here; save the weights .*",
    ),
    "a list": (
        lambda tmp: pt(tmp, [torch.zeros(2)]),
        r".*clip\.pt: holds a list, not a state dict; save it with torch\.save\(model\.state_dict\(\), .*",
    ),
    "a number among tensors": (
        lambda tmp: pt(tmp, {"lr": 0.1, "a": torch.zeros(2)}),
        r".*clip\.pt: 'lr' is a float, not a tensor; save the state dict alone: torch\.save\(.*",
    ),
    # weights of something else, or not all of them
    "another network": (
        lambda tmp: pt(tmp, {"fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}),
        r".*clip\.pt: no text\.text_projection among its 2 tensors; pass a complete CLIP checkpoint .*",
    ),
    "image tower alone": (
        lambda tmp: pt(tmp, {n: t for n, t in changed().items() if n.startswith("visual.")}),
        r".*clip\.pt: no text\.text_projection among its \d+ tensors; pass a complete CLIP checkpoint "
        r"\(image and text tower\), or its model config",
    ),
    "timm tower in a file": (
        lambda tmp: pt(tmp, {"visual.trunk.patch_embed.proj.weight": torch.zeros(1)}),
        r".*clip\.pt: its image tower is a timm model; CLIP's ResNets and plain ViTs work, .*",
    ),
    "missing tensors": (
        lambda tmp: pt(tmp, changed(logit_scale=None, visual__ln_post__bias=None)),
        r".*clip\.pt: missing logit_scale, visual\.ln_post\.bias; pass a complete CLIP checkpoint, .*",
    ),
    "unknown tensors": (
        lambda tmp: pt(tmp, changed(**{f"extra{i}": torch.zeros(1) for i in range(5)})),
        r".*clip\.pt: unknown extra0, extra1, extra2, \.\.\. \(5 in all\); pass a complete CLIP .*",
    ),
    "wrong shape": (
        lambda tmp: pt(tmp, changed(visual__ln_pre__bias=torch.zeros(63))),
        r".*clip\.pt: visual\.ln_pre\.bias has shape \(63,\), the model needs \(64,\); pass a complete .*",
    ),
    "no layer of CLIP": (
        lambda tmp: pt(tmp, changed(visual__conv1__weight=torch.zeros(64, 3))),
        r".*clip\.pt: its tensors do not have the shapes of a CLIP; pass a complete CLIP checkpoint",
    ),
    "wrong architecture": (
        lambda tmp: (pt(tmp, changed("rn")), {"config": whole_config("vit")}),
        r".*clip\.pt: missing visual\.class_embedding, .* and unknown visual\.attnpool\.c_proj\.bias, .*",
    ),
    "NaN": (
        half_written,
        r".*clip\.pt: NaN or infinite values in visual\.proj; these weights are damaged",
    ),
    "another vocabulary": (
        lambda tmp: pt(tmp, changed(token_embedding__weight=torch.zeros(1000, 64))),
        r".*clip\.pt: its text tower knows 1000 tokens, CLIP's tokenizer makes 49408; use weights that .*",
    ),
    # configurations
    "activation unknown": (
        lambda tmp: weights_in(tmp, "clip.safetensors") / "clip.safetensors",
        r".*clip\.safetensors: does not say whether its towers use QuickGELU or GELU; give --activation "
        r"quick-gelu or gelu \(activation= in Python\), or put its open_clip_config\.json beside it .*",
    ),
    "heads unknown": (
        lambda tmp: pt(tmp, openai_state({**ARCHITECTURES["vit"], "width": 96}, 11)),
        r".*clip\.pt: image heads 64 wide do not divide its width 96; "
        r"pass config=\{'vision_cfg': \{'head_width': \.\.\.\}\}",
    ),
    "misspelt key": (
        lambda tmp: (pt(tmp, changed()), {"config": {"vision_cfg": {"head_widht": 32}}}),
        r".*clip\.pt: vision_cfg has the unknown key 'head_widht'; remove it or mend its spelling",
    ),
    "section is no dict": (
        lambda tmp: (pt(tmp, changed()), {"config": {"vision_cfg": 32}}),
        "config: vision_cfg must be a dict, as in open_clip's model configs",
    ),
    "impossible value": (
        lambda tmp: (pt(tmp, changed()), {"config": {"text_cfg": {"pool_type": "best"}}}),
        r".*clip\.pt: this model config cannot be built \(.*\); mend it",
    ),
    "folder without weights": (
        lambda tmp: folder_with(tmp, config={}),
        r".*: a folder without weights; it must hold one of open_clip_model\.safetensors, .*",
    ),
    "split weights": (
        lambda tmp: folder_with(tmp, **{"model.safetensors.index": {}}),
        r".*model\.safetensors\.index\.json: no index of weights, it has no weight_map; fetch the file again",
    ),
    "configuration is no JSON": (
        lambda tmp: folder_with(weights_in(tmp, "open_clip_model.safetensors"), open_clip_config="{"),
        r".*open_clip_config\.json: not valid JSON; fetch the file again",
    ),
    "configuration of nothing": (
        lambda tmp: folder_with(weights_in(tmp, "open_clip_model.safetensors"), open_clip_config={"a": 1}),
        r".*open_clip_config\.json: no model_cfg in it; fetch the file again",
    ),
    "statistics of two channels": (
        lambda tmp: (pt(tmp, changed()), {"config": {"preprocess_cfg": {"mean": [0, 0], "std": [1, 1, 1]}}}),
        r".*clip\.pt: mean and std must be three numbers each \(R, G, B\); mend the configuration",
    ),
    "another transformers model": (
        lambda tmp: hugging_face(tmp, model_type="blip"),
        r".*: its config\.json describes a 'blip' model; only CLIPModel's and SiglipModel's work",
    ),
    "mixed activations": (
        lambda tmp: hugging_face(tmp, vision_config={"hidden_act": "gelu"}),
        r".*: hidden_act gelu and quick_gelu in config\.json; both towers must have quick_gelu, or both gelu",
    ),
    "transformers weights of something else": (
        lambda tmp: hugging_face(tmp),
        r".*: missing .* and unknown text_model\.x, vision_model\.x; pass a complete CLIP checkpoint, .*",
    ),
}


@pytest.mark.parametrize("case", list(TABLE))
def test_message(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def no_route(*_: Any) -> str:
        raise OSError("no route to host")

    monkeypatch.setattr(pretrained, "_hub_answers", lambda: False)
    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_url", no_route)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(pretrained, "OPENAI_CACHE", tmp_path / "plain")
    monkeypatch.setattr("denseclip.clip.config.ASSETS", tmp_path / "assets")
    make, message = TABLE[case]
    made = make(tmp_path)
    source, options = made if isinstance(made, tuple) else (made, {})
    with pytest.raises(UserError, match=f"^{message}$") as caught:
        load_clip(source, **options)
    assert "\n" not in str(caught.value)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path(tmp_path / "boom").write_text, ("ran",))

    torch.save({"visual.proj": Bomb()}, tmp_path / "clip.pt")
    with pytest.raises(UserError, match="Python objects besides tensors"):
        load_clip(tmp_path / "clip.pt")
    assert not (tmp_path / "boom").exists()
