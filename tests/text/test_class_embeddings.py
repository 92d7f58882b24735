from pathlib import Path

import numpy as np
import pytest
import torch

from clip_support import tiny_clip
from denseclip.errors import UserError
from denseclip.text import (
    TEMPLATES_85,
    ClassEmbeddings,
    ClassPrompts,
    EmbeddingCache,
    embed_classes,
    ensemble,
)
from denseclip.text import embeddings as module
from fixtures_support import cases
from text_support import FakeClip

TEMPLATES = ("a {}", "the {}", "a photo of the {}")


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.fixtures
@pytest.mark.parametrize("path", cases("maskclip", "text_ensemble*.npz"), ids=lambda p: p.stem)
def test_ensemble_equals_the_official_one(path: Path) -> None:
    with np.load(path) as case:
        out = ensemble(torch.from_numpy(case["per_template"]))
        np.testing.assert_allclose(out.numpy(), case["out"], atol=1e-6, rtol=0)


@pytest.mark.parametrize("chunk", [1, 4, 256])
def test_every_row_is_the_normalized_mean_of_its_sentences(chunk: int) -> None:
    clip = FakeClip()
    class_prompts = ClassPrompts.parse("cat|young cat, a big red car, grass")
    out = embed_classes(clip, class_prompts, TEMPLATES, cache=None, chunk=chunk)
    for row, word in zip(out.matrix.numpy(), class_prompts.words, strict=True):
        mean = np.mean([unit(clip.row(t.replace("{}", word))) for t in TEMPLATES], axis=0)
        np.testing.assert_allclose(row, unit(mean), atol=1e-6)
    assert out.matrix.dtype == torch.float32
    assert out.class_of_prompt.tolist() == [0, 0, 1, 2]
    assert out.classes == ("cat", "a big red car", "grass")
    assert max(len(call) for call in clip.calls) <= chunk


@pytest.mark.parametrize("kind", ["rn", "vit"])
def test_trimmed_batches_equal_the_official_loop_at_full_length(kind: str) -> None:
    clip = tiny_clip(kind)
    class_prompts = ClassPrompts.parse(
        "cat, dining table, a very long name of a thing that nobody has ever seen before"
    )
    rows = []
    with torch.no_grad():
        for word in class_prompts.words:
            tokens = clip.tokenizer([t.replace("{}", word) for t in TEMPLATES_85])
            assert tokens.shape == (85, 77)
            rows.append(ensemble(clip.text(tokens)[None])[0])
    out = embed_classes(clip, class_prompts, TEMPLATES_85, cache=None, chunk=50)
    torch.testing.assert_close(out.matrix, torch.stack(rows), atol=1e-5, rtol=0)


def test_a_blank_before_the_full_stop_changes_nothing() -> None:
    with_blank, without = (
        embed_classes(tiny_clip("rn"), ClassPrompts(("bed",), ((word,),)), TEMPLATES_85, cache=None).matrix
        for word in ("bed ", "bed")
    )
    assert torch.equal(with_blank, without)


def test_sentences_run_from_short_to_long_and_once_each() -> None:
    clip = FakeClip()
    embed_classes(clip, ClassPrompts.parse("a big red car, cat"), ("a {}", "the {}", "a {}"), cache=None)
    assert clip.sentences == ["a cat", "the cat", "a a big red car", "the a big red car"]


def test_a_literal_is_used_as_it_stands() -> None:
    clip = FakeClip()
    out = embed_classes(clip, ClassPrompts.parse("=two dogs asleep"), TEMPLATES, cache=None)
    assert clip.sentences == ["two dogs asleep"]
    np.testing.assert_allclose(out.matrix[0].numpy(), unit(clip.row("two dogs asleep")), atol=1e-6)


def test_blocks_bound_what_is_held_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class_prompts = ClassPrompts.parse([f"thing {i}" for i in range(23)])
    whole = embed_classes(FakeClip(), class_prompts, TEMPLATES, cache=None)
    monkeypatch.setattr(module, "BLOCK_SENTENCES", 15)
    seen: list[tuple[int, int]] = []
    blocks = embed_classes(
        FakeClip(), class_prompts, TEMPLATES, cache=None, progress=lambda *x: seen.append(x)
    )
    assert torch.equal(whole.matrix, blocks.matrix)
    assert seen == [(5, 23), (10, 23), (15, 23), (20, 23), (23, 23)]


def test_half_precision_is_averaged_in_float32() -> None:
    out = embed_classes(FakeClip(dtype=torch.bfloat16), ClassPrompts.parse("cat"), TEMPLATES, cache=None)
    assert out.matrix.dtype == torch.float32
    assert abs(float(out.matrix.norm()) - 1) < 1e-6


def test_embeddings_can_take_part_in_training() -> None:
    out = embed_classes(FakeClip(), ClassPrompts.parse("cat, dog"), TEMPLATES, cache=None)
    features = torch.ones(16, requires_grad=True)
    (out.matrix @ features).sum().backward()
    assert features.grad is not None


def test_a_long_prompt_is_named_before_anything_is_encoded() -> None:
    clip = FakeClip()
    with pytest.raises(UserError) as caught:
        embed_classes(clip, ClassPrompts.parse({"cat": ["cat", "one two " * 6]}), TEMPLATES, cache=None)
    assert str(caught.value) == (
        "class 'cat': prompt 'one two one two one two one t...e two' makes a sentence of 18 tokens, "
        "the text tower reads 16; shorten it"
    )
    assert clip.calls == []


def test_overflow_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = FakeClip(dtype=torch.float16)
    monkeypatch.setattr(clip, "row", lambda sentence: np.full(16, 1e6, np.float32))
    with pytest.raises(UserError, match=r"^the text tower overflows in float16; use float32$"):
        embed_classes(clip, ClassPrompts.parse("cat"), TEMPLATES, cache=EmbeddingCache(tmp_path))
    assert list(tmp_path.rglob("*.safetensors")) == []


def test_reduce_takes_the_best_prompt_of_each_class() -> None:
    owner = (0, 0, 0, 1, 2, 2)
    embeddings = ClassEmbeddings(torch.zeros(6, 4), torch.tensor(owner), ("a", "b", "c"))
    scores = torch.randn(2, 6, 5, 7) - 3
    expected = torch.stack(
        [scores[:, [i for i, o in enumerate(owner) if o == k]].amax(1) for k in range(3)], dim=1
    )
    assert torch.equal(embeddings.max_over_prompts(scores), expected)
    assert torch.equal(embeddings.max_over_prompts(scores[0]), expected[0])
    assert embeddings.max_over_prompts(scores.bfloat16()).dtype == torch.bfloat16


def test_reduce_leaves_single_prompts_alone() -> None:
    embeddings = ClassEmbeddings(torch.zeros(2, 4), torch.tensor([0, 1]), ("a", "b"))
    scores = torch.randn(2, 3, 3)
    assert embeddings.max_over_prompts(scores) is scores


def test_the_cache_gives_the_same_rows_and_one_more_word_costs_one_word(tmp_path: Path) -> None:
    cache = EmbeddingCache(tmp_path)
    first = embed_classes(FakeClip(), ClassPrompts.parse("cat, dog, cow"), TEMPLATES_85, cache=cache)
    clip = FakeClip()
    again = embed_classes(
        clip, ClassPrompts.parse("cow, cat|dog"), TEMPLATES_85, cache=EmbeddingCache(tmp_path)
    )
    assert clip.calls == []
    assert torch.equal(again.matrix, first.matrix[[2, 0, 1]])
    embed_classes(clip, ClassPrompts.parse("cow, cat, zebra"), TEMPLATES_85, cache=cache)
    assert sorted(clip.sentences) == sorted(t.replace("{}", "zebra") for t in TEMPLATES_85)


@pytest.mark.parametrize(
    "other",
    [
        {"fingerprint": "beef"},
        {"dtype": torch.bfloat16},
        {"templates": ("a {}",)},
        {"words": "=cat"},
        {"words": "Cat"},
    ],
    ids=str,
)
def test_whatever_a_row_depends_on_is_in_its_key(tmp_path: Path, other: dict) -> None:
    cache = EmbeddingCache(tmp_path)
    embed_classes(FakeClip(), ClassPrompts.parse("cat"), TEMPLATES, cache=cache)
    clip = FakeClip(other.get("fingerprint", "f00d"), other.get("dtype", torch.float32))
    class_prompts = ClassPrompts.parse(other.get("words", "cat"))
    embed_classes(clip, class_prompts, other.get("templates", TEMPLATES), cache=cache)
    assert clip.calls


def test_an_interrupted_run_keeps_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_SENTENCES", 3)
    class_prompts = ClassPrompts.parse("cat, dog, cow")

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    cache = EmbeddingCache(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        embed_classes(FakeClip(), class_prompts, TEMPLATES, cache=cache, progress=stop)
    clip = FakeClip()
    embed_classes(clip, class_prompts, TEMPLATES, cache=cache)
    assert clip.sentences == ["a cow", "the cow", "a photo of the cow"]
