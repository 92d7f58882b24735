"""Tokens: CLIP's own vocabulary, the short one of the embedded models, and what cannot be had."""

import random
import re
from pathlib import Path

import open_clip
import pytest
import torch

from denseclip.clip import clip as module
from denseclip.clip.clip import CLIP_VOCABULARY, SHORT_VOCABULARY, tokenizer_for
from denseclip.errors import UserError

SENTENCES = ["a photo of a cat", "Two RED cars, seen from above!", "naïve café 猫 🐈", ""]


def test_clips_own_tokens() -> None:
    tokenizer = tokenizer_for({}, "clip")
    rng = random.Random(0)
    words = [
        "a",
        "Cat's",
        "don't",
        "naïve",
        "日本語",
        "123",
        "C++",
        "&amp;lt;",
        "<end_of_text>",
        "aaaa",
        "bananana",
    ]
    words += ["hello-world", "ﬁ", "🐕\u200d🦺", "we'll", "\t", "x"]
    mixed = [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(100)]
    sentences = [
        *SENTENCES,
        *mixed,
        *("".join(map(chr, rng.sample(range(32, 12000), 9))) for _ in range(100)),
    ]
    assert torch.equal(tokenizer(sentences), open_clip.tokenizer.tokenize(sentences))
    assert tokenizer([]).shape == (0, 77)


@pytest.mark.parametrize("vocabulary", [CLIP_VOCABULARY, SHORT_VOCABULARY])
def test_every_token_is_in_the_vocabulary_and_the_end_is_the_largest(vocabulary: int) -> None:
    tokenizer = tokenizer_for({"vocab_size": vocabulary, "context_length": 48}, "clip")
    rows = tokenizer(SENTENCES)
    assert rows.shape == (4, 48)
    assert rows.max() == vocabulary - 1
    assert (rows[:, 0] == vocabulary - 2).all()
    assert (rows.argmax(dim=1) + 1).tolist() == tokenizer.lengths(SENTENCES)


def test_a_tokenizer_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", refuse)
    message = (
        "ViT-H-14-CLIPA: its tokenizer 'bert-base-uncased' is not on this machine and cannot be downloaded; "
    )
    with pytest.raises(UserError, match=f"^{re.escape(message)}run once with network, or use .*$"):
        tokenizer_for(open_clip.get_model_config("ViT-H-14-CLIPA")["text_cfg"], "ViT-H-14-CLIPA")


def test_a_tokenizer_that_needs_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ImportError("transformers")

    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", refuse)
    with pytest.raises(
        UserError, match=r"^x: its tokenizer 'mt5' needs the package transformers; pip install .*$"
    ):
        tokenizer_for({"hf_tokenizer_name": "mt5"}, "x")


def test_only_the_catalog_and_the_tokenizers_of_others_need_open_clip() -> None:
    package = Path(module.__file__).parents[1]
    imports = {
        path.relative_to(package).as_posix(): re.findall(
            r"(?:import|from) (open_clip[\w.]*)", path.read_text()
        )
        for path in package.rglob("*.py")
    }
    users = {name: found for name, found in imports.items() if found}
    assert set(users) == {"clip/pretrained.py", "clip/clip.py"}
    assert set(users["clip/pretrained.py"]) <= {"open_clip", "open_clip.pretrained"}
    assert set(users["clip/clip.py"]) == {"open_clip.tokenizer"}
