"""Names and tags: what they mean, where their files come from, and that each has its own settings."""

from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import open_clip
import pytest
from safetensors.torch import save_file

from clip_support import ARCHITECTURES, heads_config, openai_state, put_in_hub_cache, tiny_clip, whole_config
from denseclip.clip import load_clip, pretrained
from denseclip.errors import UserError

INCEPTION = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
OPENAI = {"mean": (0.45, 0.45, 0.45), "std": (0.25, 0.25, 0.25)}


@pytest.fixture
def invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A small model made known to open_clip, with three sets of weights, all "downloaded" to one file."""
    config = whole_config("vit")
    del config["quick_gelu"]
    tags = {
        "openai": {"url": "https://example.org/x.pt", "hf_hub": "org/openai/", **OPENAI},
        "laion": {"hf_hub": "org/laion/", "quick_gelu": False, **INCEPTION},
        "meta": {"hf_hub": "org/meta/weights.bin", "quick_gelu": True, **OPENAI},
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-Invented", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-Invented", tags)
    save_file(openai_state(ARCHITECTURES["vit"], 11), tmp_path / "open_clip_model.safetensors")
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: True)
    monkeypatch.setattr(
        open_clip.pretrained, "download_pretrained", lambda _: str(tmp_path / "open_clip_model.safetensors")
    )
    return "ViT-Invented"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("RN50", "RN50:openai"),
        ("RN50x64", "RN50x64:openai"),
        ("ViT-B-32", "ViT-B-32:openai"),
        ("ViT-B/16", "ViT-B-16:openai"),
        ("ViT-L/14@336px", "ViT-L-14-336:openai"),
        ("ViT-L-14-336", "ViT-L-14-336:openai"),
        ("ViT-B-16:laion2b_s34b_b88k", "ViT-B-16:laion2b_s34b_b88k"),
        ("ViT-B-32-256", "ViT-B-32-256:datacomp_s34b_b86k"),
    ],
)
def test_spellings_and_default_tags(name: str, expected: str) -> None:
    assert pretrained.find_pretrained(name, None).label == expected


def test_activation_and_statistics_follow_the_weights() -> None:
    openai, laion = (
        pretrained.find_pretrained("ViT-L-14", None),
        pretrained.find_pretrained("ViT-L-14", "laion2b_s32b_b82k"),
    )
    assert (openai.config["quick_gelu"], laion.config["quick_gelu"]) == (True, False)
    assert openai.stats.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    assert laion.stats.mean == (0.5, 0.5, 0.5)
    assert pretrained.find_pretrained("ViT-B-16:metaclip_400m", None).config["quick_gelu"]


@pytest.mark.parametrize(
    ("tag", "quick_gelu", "std"), [("openai", True, 0.25), ("laion", False, 0.5), ("meta", True, 0.25)]
)
def test_named_weights_load_with_their_own_settings(
    invented: str, tag: str, quick_gelu: bool, std: float
) -> None:
    clip = load_clip(invented, pretrained=tag)
    assert clip.name == invented
    assert clip.quick_gelu == quick_gelu
    assert clip.stats.std == (std, std, std)
    assert (clip.fingerprint == tiny_clip("vit").fingerprint) == quick_gelu
    assert load_clip(f"{invented}:{tag}").fingerprint == clip.fingerprint


def test_cached_files_are_used_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("went online")

    monkeypatch.setattr(pretrained, "_hub_answers", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "OPENAI_CACHE", tmp_path / "plain")
    entry = pretrained.find_pretrained("RN50", None)
    assert pretrained.cached(entry) is None
    put_in_hub_cache(tmp_path, entry.repository, "open_clip_model.safetensors")
    assert pretrained.cached(entry) == pretrained.fetch(entry)
    assert pretrained.fetch(entry).read_bytes() == b"weights"


def test_a_file_of_openais_package_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "OPENAI_CACHE", tmp_path)
    (tmp_path / "ViT-B-16.pt").write_bytes(b"weights")
    assert pretrained.cached(pretrained.find_pretrained("ViT-B-16", None)) == tmp_path / "ViT-B-16.pt"
    assert pretrained.cached(pretrained.find_pretrained("ViT-B-32", None)) is None


def test_a_closed_hub_leaves_openais_address(
    tmp_path: Path, invented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(url: str) -> str:
        asked.append(url)
        return str(tmp_path / "open_clip_model.safetensors")

    monkeypatch.setattr(pretrained, "_hub_answers", lambda: False)
    monkeypatch.setattr(open_clip.pretrained, "download_pretrained_from_url", download)
    assert load_clip(invented).fingerprint == tiny_clip("vit").fingerprint
    assert asked == ["https://example.org/x.pt"]
    with pytest.raises(
        UserError, match=r"fetch open_clip_config\.json and weights\.bin of huggingface\.co/org/meta"
    ):
        load_clip(f"{invented}:meta")


def test_a_name_wins_over_a_file_of_that_name(
    tmp_path: Path, invented: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / invented).write_bytes(b"")
    assert load_clip(invented).stats.std == (0.25, 0.25, 0.25)
    with pytest.raises(UserError, match="the file is empty"):
        load_clip(f"./{invented}")
    save_file(openai_state(ARCHITECTURES["vit"], 11), tmp_path / "mine")  # any other name may be a file
    config = heads_config(ARCHITECTURES["vit"])
    assert load_clip("mine", config=config).fingerprint == tiny_clip("vit").fingerprint


def test_a_download_that_stopped_is_said_with_what_to_remove(tmp_path, monkeypatch):
    """Its checksum is another one; without a network it cannot be fetched again."""
    monkeypatch.setattr(pretrained, "OPENAI_CACHE", tmp_path)
    monkeypatch.setattr(pretrained, "_in_hub_cache", lambda entry: None)
    entry = pretrained.find_pretrained("RN50", None)
    (tmp_path / "RN50.pt").write_bytes(b"half of it")

    def checked(url, *rest):
        raise OSError("no network")

    monkeypatch.setattr("open_clip.pretrained.download_pretrained_from_url", checked)
    with pytest.raises(UserError, match=r"RN50\.pt is not whole, its checksum is another one") as caught:
        pretrained.fetch(entry)
    assert str(caught.value).endswith(f"remove it and fetch {entry.url} by other means")
    assert "\n" not in str(caught.value)
    assert (tmp_path / "RN50.pt").read_bytes() == b"half of it", "nothing of the user's is removed"


@pytest.fixture
def broken_server():
    """Its address; it promises 1,000 bytes of every file and breaks off after ten."""

    class Half(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"0123456789")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Half)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_download_that_breaks_off_is_no_model(broken_server, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "_hub_answers", lambda: False)
    monkeypatch.setattr(pretrained, "_in_hub_cache", lambda entry: None)
    entry = pretrained.find_pretrained("RN50", None)
    entry = replace(entry, url=f"{broken_server}/openaipublic/{'0' * 64}/RN50.pt")
    for _ in range(2):  # what is left of the first try is not taken for a model by the second
        with pytest.raises(UserError, match=r"RN50.*by other means") as caught:
            pretrained.fetch(entry)
        assert "\n" not in str(caught.value)
