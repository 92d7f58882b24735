"""Class embeddings against the official script's loop over classes, on a text tower of CLIP's own size.

The tower (width 512, 12 layers) has random weights: its time does not depend on them. To stay short, a round
takes a few of the 171 COCO-Stuff words for ours and, right before, one of them for the loop, whose time grows
exactly with the number of words; the ratio is that of the seconds a word.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from denseclip.clip import Clip, load_clip
from denseclip.text import TEMPLATES_85, ClassPrompts, EmbeddingCache, class_set, embed_classes

ROUNDS, WORDS = 3, 8


def run() -> dict[str, float]:
    """{"text_171x85": loop / ours, "text_cached": ours / ours from the cache}, medians over the rounds."""
    words = class_set("coco-stuff")[:: 171 // (ROUNDS * WORDS)]
    with tempfile.TemporaryDirectory() as folder:
        clip = clip_sized_text(Path(folder))
        rounds = []
        for i in range(ROUNDS):
            class_prompts = ClassPrompts.parse(words[i * WORDS : (i + 1) * WORDS])
            rounds.append(measure(clip, class_prompts, EmbeddingCache(Path(folder) / str(i))))
    return {name: statistics.median(values[name] for values in rounds) for name in rounds[0]}


def measure(clip: Clip, class_prompts: ClassPrompts, cache: EmbeddingCache) -> dict[str, float]:
    """One round: the loop for the first word, ours for all, ours again from the cache; they must agree."""

    def ours() -> Tensor:
        return embed_classes(clip, class_prompts, TEMPLATES_85, cache=cache).matrix

    loop, expected = timed(lambda: official_loop(clip, class_prompts.words[:1]))
    fresh, matrix = timed(ours)
    kept, again = timed(ours)
    torch.testing.assert_close(matrix[:1], expected, atol=1e-5, rtol=0)
    assert torch.equal(again, matrix)
    print(f"  a word: loop {loop:.2f} s, ours {fresh / WORDS:.2f} s, cached {kept / WORDS * 1e3:.2f} ms")
    return {"text_171x85": loop / (fresh / WORDS), "text_cached": fresh / kept}


@torch.no_grad()
def official_loop(clip: Clip, words: tuple[str, ...]) -> Tensor:
    """(K, D): one pass a class, every sentence padded to 77 tokens, as MaskCLIP's prompt script does it."""
    rows = []
    for word in words:
        tokens = clip.tokenizer([template.replace("{}", word) for template in TEMPLATES_85])  # (85, 77)
        features = clip.text(tokens)  # (85, D)
        features = features / features.norm(dim=-1, keepdim=True)
        mean = features.mean(dim=0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def clip_sized_text(folder: Path) -> Clip:
    """A CLIP with the text tower of ViT-B/16 and next to no image tower, through the public loading path."""
    import open_clip

    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=512,
        vision_cfg={"image_size": 32, "layers": 1, "width": 64, "patch_size": 32},
        text_cfg={"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
        quick_gelu=True,
    )
    torch.save(model.state_dict(), folder / "clip.pt")
    clip = load_clip(folder / "clip.pt")
    assert clip.fingerprint  # computed once a model, not once a query
    return clip


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds, and what the work gave."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


if __name__ == "__main__":
    for name, ratio in run().items():
        print(f"{name}: {ratio:.1f}x")
