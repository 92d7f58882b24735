"""Weights as trainers, hubs and publishers wrap them: read whole, or refused in one line."""

import argparse
import json
import pickle
import random
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from clip_support import ARCHITECTURES, heads_config, tiny_clip
from denseclip.clip import load_clip
from denseclip.clip.weights import load_pickle
from denseclip.errors import UserError
from denseclip.loading import load

CONFIG = heads_config(ARCHITECTURES["vit"])


@pytest.fixture(scope="module")
def state():
    """OpenAI's names, as a state dict of our towers has them."""
    clip = tiny_clip("vit")
    towers = {f"visual.{k}": v for k, v in clip.visual.state_dict().items()}
    towers |= dict(clip.text.state_dict().items())
    return {k: v.clone().contiguous() for k, v in towers.items()} | {"logit_scale": torch.tensor(4.6)}


def prefixed(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


class Harmful:
    def __reduce__(self):
        return Path.touch, (Path("harm-was-done"),)


WRAPPINGS = {
    "bare": lambda s: s,
    "ordered": lambda s: OrderedDict(s),
    "model": lambda s: {"model": s, "epoch": 3},
    "state_dict": lambda s: {"state_dict": s},
    "model_state_dict": lambda s: {
        "model_state_dict": s,
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
    },
    "twice": lambda s: {"net": {"state_dict": s}},
    "module": lambda s: prefixed(s, "module."),
    "compiled": lambda s: prefixed(s, "_orig_mod."),
    "compiled in parallel": lambda s: prefixed(s, "module._orig_mod."),
    "parallel, compiled": lambda s: prefixed(s, "_orig_mod.module."),
    "lightning": lambda s: {
        "epoch": 1,
        "global_step": 9,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": prefixed(s, "model."),
        "callbacks": {"ModelCheckpoint{'monitor': None}": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": argparse.Namespace(lr=0.1),
    },
    "open_clip": lambda s: {"epoch": 4, "name": "run", "state_dict": prefixed(s, "module."), "optimizer": {}},
    "published": lambda s: {
        "meta": {"score": np.float64(0.5), "iter": np.int64(3), "classes": ("a", "b"), "best": np.arange(3)},
        "state_dict": prefixed(s, "module."),
    },
    "half": lambda s: {name: tensor.half() for name, tensor in s.items()},
    "bfloat16": lambda s: {name: tensor.bfloat16() for name, tensor in s.items()},
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_wrappings(state, tmp_path, wrapping, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save(WRAPPINGS[wrapping](state), path)
    clip = load_clip(path, config=CONFIG)
    tolerance = 0.02 if wrapping in ("half", "bfloat16") else 0
    for name, tensor in clip.visual.state_dict().items():
        torch.testing.assert_close(tensor, state[f"visual.{name}"], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_numbers_of_both_numpys(tmp_path, module):
    """NumPy 1 and 2 write other module names into pickles."""
    path = tmp_path / "numbers.pth"
    torch.save({"meta": {"score": np.float32(0.25), "count": np.array([1, 2])}, "x": torch.ones(1)}, path)
    other = tmp_path / "other.pth"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(other, "w") as new:
        for item in old.infolist():
            content = old.read(item)
            if item.filename.endswith("data.pkl"):
                for home in (b"numpy.core.multiarray", b"numpy._core.multiarray"):
                    content = content.replace(b"c" + home + b"\n", b"c" + module.encode() + b"\n")
            new.writestr(item.filename, content)
    meta = load_pickle(other)["meta"]
    assert meta["score"] == 0.25 and meta["count"].tolist() == [1, 2]


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["meta", "state_dict"])
def test_a_dangerous_pickle_is_refused_and_does_nothing(state, tmp_path, monkeypatch, protocol, place):
    monkeypatch.chdir(tmp_path)
    content = {"meta": {}, "state_dict": dict(state)}
    content[place]["x"] = Harmful()
    torch.save(content, "bad.pth", pickle_protocol=protocol)
    Path("bare.bin").write_bytes(pickle.dumps(content["meta"] | {"x": Harmful()}, protocol))
    for name in ("bad.pth", "bare.bin"):
        with pytest.raises(UserError, match=rf"{name}: holds Python objects besides tensors|{name}: damaged"):
            load_clip(Path(name), config=CONFIG)
    assert not Path("harm-was-done").exists()


def shards(folder, state, suffix):
    names = sorted(state)
    table = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-0000{number}-of-00002.{suffix}"
        content = {name: state[name] for name in part}
        if suffix == "safetensors":
            save_file(content, folder / file)
        else:
            torch.save(content, folder / file)
        table |= dict.fromkeys(part, file)
    whole = "model" if suffix == "safetensors" else "pytorch_model"
    index = folder / f"{whole}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": table}))
    return index


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_shards(state, tmp_path, suffix, prefix):
    index = shards(tmp_path, prefixed(state, prefix), suffix)
    for source in (tmp_path, index):
        clip = load_clip(source, config=CONFIG)
        assert torch.equal(clip.visual.state_dict()["proj"], state["visual.proj"])


def test_shards_that_are_not_whole(state, tmp_path):
    index = shards(tmp_path, state, "safetensors")
    second = tmp_path / "model-00002-of-00002.safetensors"
    kept = second.read_bytes()
    save_file({"other": torch.ones(1)}, second)
    with pytest.raises(UserError, match="and the index do not agree about"):
        load_clip(tmp_path, config=CONFIG)
    second.unlink()
    with pytest.raises(UserError, match=r"lists model-00002-of-00002\.safetensors, which is not there"):
        load_clip(tmp_path, config=CONFIG)
    second.write_bytes(kept)
    for text in ("[]", "{}", "nonsense", '{"weight_map": {"x": "../secret.bin"}}', '{"weight_map": {}}'):
        index.write_text(text)
        with pytest.raises(UserError, match=r"index\.json: ") as caught:
            load_clip(tmp_path, config=CONFIG)
        assert "\n" not in str(caught.value)


def test_the_only_file_of_a_folder_is_taken(state, tmp_path):
    torch.save({"epoch": 5, "state_dict": state}, tmp_path / "epoch_5.pt")
    load_clip(tmp_path, config=CONFIG)
    torch.save(state, tmp_path / "epoch_6.pt")
    with pytest.raises(UserError, match="a folder without weights"):
        load_clip(tmp_path, config=CONFIG)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
def test_the_activation_is_asked_for_and_never_guessed(state, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    heads = {key: value for key, value in CONFIG.items() if key != "quick_gelu"}
    with pytest.raises(UserError, match="give --activation quick-gelu or gelu") as caught:
        load_clip(path, config=heads)
    assert "\n" not in str(caught.value)
    assert load_clip(path, config=heads, activation="quick-gelu").quick_gelu
    assert not load_clip(path, config=heads, activation="gelu").quick_gelu
    with pytest.raises(UserError, match="activation 'relu' is unknown; choose quick-gelu or gelu"):
        load(path, activation="relu")
    with pytest.raises(UserError, match="leave them out"):
        load_clip("ViT-B-16", activation="gelu")


def test_what_is_saved_of_an_openai_archive_has_quickgelu(state, tmp_path):
    numbers = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    torch.save(state | {k: torch.tensor(v) for k, v in numbers.items()}, tmp_path / "saved.pt")
    heads = {key: value for key, value in CONFIG.items() if key != "quick_gelu"}
    assert load_clip(tmp_path / "saved.pt", config=heads).quick_gelu


def test_quantized_weights_are_refused(state, tmp_path):
    torch.save(state | {"visual.proj": state["visual.proj"].to(torch.int8)}, tmp_path / "int8.pt")
    with pytest.raises(UserError, match=r"quantized weights visual\.proj \(int8\); pass them in float32"):
        load_clip(tmp_path / "int8.pt", config=CONFIG)


def mutate(rng, state, path):
    """Write a damaged checkpoint; whether it may be read after all."""
    state = dict(state)
    name = rng.choice(sorted(state))
    kind = rng.randrange(12)
    if kind == 0:
        del state[name]
    elif kind == 1:
        state[name] = torch.zeros(3, 5, 7)
    elif kind == 2:
        state[f"{name}.more"] = state.pop(name)
    elif kind == 3:
        state[name] = state[name].to(torch.int8)
    elif kind == 4:
        state[name] = torch.full_like(state[name], float("nan"))
    elif kind == 5:
        state["extra"] = torch.ones(2)
    elif kind == 6:
        state[name] = rng.choice([None, 3, "text", [1.0], {"a": 1}])
    elif kind == 7:
        state = prefixed(state, "module.")
        state[name] = state.pop(f"module.{name}")  # one without
    elif kind == 8:
        state = rng.choice([[], {}, 3, "text", None, {"state_dict": {}}, {"model": 3}, torch.ones(3)])
    elif kind == 9:
        state = {3: torch.ones(1)} | state
    torch.save(state, path)
    if kind >= 10:
        content = bytearray(path.read_bytes())
        if kind == 10:
            content = content[: rng.randrange(len(content))]
        else:
            start = rng.randrange(len(content) // 2)
            content[start : start + 4096] = bytes(4096)
        path.write_bytes(content)
    return kind == 11  # what is overwritten may be padding or the values of weights


@pytest.mark.parametrize("part", range(4))
def test_damaged_checkpoints_are_refused_in_one_line(state, tmp_path, part):
    rng = random.Random(part)
    for number in range(40):
        path = tmp_path / f"{number}.pt"
        may_pass = mutate(rng, state, path)
        try:
            load_clip(path, config=CONFIG)
        except UserError as error:
            message = str(error)
            assert "\n" not in message and str(path) in message
        else:
            assert may_pass, number
        path.unlink()
