"""Prompts in sentences through the text tower, and their vectors kept on disk."""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import safetensors.numpy
import torch
import torch.nn.functional as F
from torch import Tensor

from denseclip.data.stickers import TEXTURES, sprite_names
from denseclip.errors import UserError
from denseclip.io import atomic_path
from denseclip.text.prompts import BACKGROUND, LITERAL, ClassPrompts, facts, show

BLANK = "{}"
TEMPLATES_85: tuple[str, ...] = facts().templates
"""The 80 ImageNet prompts of CLIP and five "... in the scene" ones (MaskCLIP)."""
TEMPLATES_80: tuple[str, ...] = TEMPLATES_85[:80]
"""CLIP's ImageNet prompts alone (SCLIP, ClearCLIP, NACLIP)."""
TEMPLATES_1: tuple[str, ...] = ("a photo of a {}.",)
"""The single template of MaskCLIP without prompt engineering."""

_NAMED = {"85": TEMPLATES_85, "80": TEMPLATES_80, "1": TEMPLATES_1}


def templates(choice: str | Sequence[str]) -> tuple[str, ...]:
    """Templates by name ("85", "80", "1"), or the user's own: one sentence with a `{}`, or a list of them.

    Raises:
        UserError: an unknown name, an empty list, or a sentence without exactly one `{}`.
    """
    if isinstance(choice, str) and choice.strip() in _NAMED:
        return _NAMED[choice.strip()]
    if isinstance(choice, str) and BLANK not in choice:
        raise UserError(f"there are no templates {choice!r}; use {', '.join(_NAMED)} or a sentence with {{}}")
    own = (choice,) if isinstance(choice, str) else tuple(choice)
    if not own:
        raise UserError(
            "the list of templates is empty; give at least one sentence such as 'a photo of a {}.'"
        )
    for sentence in own:
        if not isinstance(sentence, str) or sentence.count(BLANK) != 1:
            raise UserError(f"template {sentence!r} must be a sentence with exactly one {{}} for the word")
    return own


def official_templates(*class_sets: str) -> tuple[str, ...]:
    """Templates of the official code for these class sets: 85, or a single one if "blur" is among them.

    The single template then serves all sets, which looks like an oversight there, but makes its figures.
    """
    return TEMPLATES_1 if "blur" in class_sets else TEMPLATES_85


def fill(template: str, word: str) -> str:
    """Put a word into the blank; braces in the word stay as they are."""
    return template.replace(BLANK, word)


log = logging.getLogger(__name__)

Rows = dict[bytes, np.ndarray]
"""{32-byte key of a prompt: float32 vector (D,)}."""

LIMIT_BYTES = 256 * 2**20
MERGE_AT = 8
_SUFFIX = ".safetensors"
_STALE_SECONDS = 3600


def cache_folder() -> Path:
    """`DENSECLIP_CACHE`, or `denseclip` in `XDG_CACHE_HOME`, or `~/.cache/denseclip`. It need not exist."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    folder = Path(os.environ.get("DENSECLIP_CACHE") or base / "denseclip")
    try:
        return folder.expanduser()
    except RuntimeError:  # nobody's home
        return folder


class EmbeddingCache:
    """Rows by group and key, in `folder` (default: `embeddings` in `cache_folder()`), at most `limit_bytes`.

    Nothing here raises for the disk's sake: what cannot be read is computed anew, and the first write that
    fails logs one warning and ends writing.
    """

    def __init__(self, folder: Path | str | None = None, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "embeddings"
        self.limit_bytes = limit_bytes
        self._writable = True

    def load(self, group: str) -> Rows:
        """All rows of a group; damaged shards are removed, logged and left out."""
        return self._read(self._shards(group))

    def store(self, group: str, rows: Rows) -> None:
        """Add rows to a group, merge its shards if they are many, drop the oldest ones beyond the limit."""
        if not self._writable or not rows:
            return
        try:
            shards = self._shards(group)
            if len(shards) < MERGE_AT:
                self._write(group, rows)
            else:
                merged = self._write(group, self._read(shards) | rows)
                for shard in shards:
                    if shard != merged:
                        shard.unlink(missing_ok=True)
            self._sweep()
        except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
            self._writable = False
            log.warning(
                "class embeddings are not cached: %s; set DENSECLIP_CACHE to a writable folder", error
            )

    def _shards(self, group: str) -> list[Path]:
        try:
            names = sorted((self.folder.expanduser() / group).iterdir())
        except (OSError, RuntimeError):
            return []
        return [path for path in names if path.suffix == _SUFFIX and not path.name.startswith(".")]

    def _read(self, shards: list[Path]) -> Rows:
        rows: Rows = {}
        for shard in shards:
            rows |= _read_shard(shard)
        return rows

    def _write(self, group: str, rows: Rows) -> Path:
        content = _pack(rows)
        path = self.folder.expanduser() / group / (hashlib.sha256(content).hexdigest() + _SUFFIX)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return path

    def _sweep(self) -> None:
        """Remove what dead writers left behind, then the oldest shards beyond the limit."""
        kept = []
        for path in self.folder.expanduser().glob(f"*/*{_SUFFIX}"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process was quicker
                continue
            if not path.name.startswith("."):
                kept.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)
        excess = sum(size for _, size, _ in kept) - self.limit_bytes
        for _, size, path in sorted(kept):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


def _pack(rows: Mapping[bytes, np.ndarray]) -> bytes:
    keys = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)  # (N, 32)
    return safetensors.numpy.save({"keys": keys, "rows": np.stack(list(rows.values()))})  # rows (N, D)


def _read_shard(path: Path) -> Rows:
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # merged or dropped by another process
        return {}
    except OSError as error:
        log.info("cached class embeddings %s cannot be read (%s)", path, error)
        return {}
    if hashlib.sha256(content).hexdigest() != path.stem:
        log.info("cached class embeddings %s are damaged; they are computed anew", path)
        _discard(path)
        return {}
    arrays = safetensors.numpy.load(content)
    return {key.tobytes(): row for key, row in zip(arrays["keys"], arrays["rows"], strict=True)}


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s cannot be removed (%s)", path, error)


BLOCK_SENTENCES = 8_192
"""Sentences whose vectors are held at a time; what bounds the memory of a large vocabulary."""


class TextSize(Protocol):
    """The part of a text tower that words need."""

    @property
    def context_length(self) -> int: ...  # noqa: D102


class TextEncoder(Protocol):
    """The part of a `Clip` that words need."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102
    @property
    def device(self) -> torch.device: ...  # noqa: D102
    @property
    def dtype(self) -> torch.dtype: ...  # noqa: D102
    @property
    def text(self) -> TextSize: ...  # noqa: D102
    def encode_text(self, sentences: Sequence[str]) -> Tensor: ...  # noqa: D102
    def token_lengths(self, sentences: Sequence[str]) -> list[int]: ...  # noqa: D102


@dataclass(frozen=True)
class ClassEmbeddings:
    """Unit vectors of the P prompts of K classes.

    `matrix` (P, D) float32; `class_of_prompt` (P,) int64, never falling; `classes`: K names;
    `generic`: how many of the first prompts are generic words, all of class 0; `lead`: taken off their scores.
    """

    matrix: Tensor
    class_of_prompt: Tensor
    classes: tuple[str, ...]
    generic: int = 0
    lead: float = 0.0

    def max_over_prompts(self, scores: Tensor) -> Tensor:
        """Scores (..., P, h, w) of prompts -> (..., K, h, w) of classes: the best prompt of each."""
        if len(self.class_of_prompt) == len(self.classes):
            return scores
        if self.generic:
            pool, rest = scores.split([self.generic, scores.shape[-3] - self.generic], dim=-3)
            own = replace(
                self,
                class_of_prompt=self.class_of_prompt[self.generic :] - 1,
                classes=self.classes[1:],
                generic=0,
            )
            return torch.cat([pool.amax(-3, keepdim=True) - self.lead, own.max_over_prompts(rest)], dim=-3)
        shape = (*scores.shape[:-3], len(self.classes), *scores.shape[-2:])
        index = self.class_of_prompt.to(scores.device)[:, None, None].expand_as(scores)  # (..., P, h, w)
        return scores.new_zeros(shape).scatter_reduce(-3, index, scores, "amax", include_self=False)


def ensemble(per_template: Tensor) -> Tensor:
    """Text features (K, T, D) under T templates -> unit vectors (K, D).

    Each is normalized, their mean is normalized again. Source: MaskCLIP, section "text embeddings".
    """
    return F.normalize(F.normalize(per_template, dim=-1).mean(dim=1), dim=-1)


def embed_classes(
    clip: TextEncoder,
    class_prompts: ClassPrompts,
    templates: Sequence[str],
    *,
    cache: EmbeddingCache | None,
    chunk: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> ClassEmbeddings:
    """Embed every prompt of an class_prompts under all templates, on the CLIP's device, in float32.

    Prompts in `cache` cost nothing. The others run through the text tower `chunk` sentences at a time, those
    of similar length together, so that little padding is computed. `progress(done, all)` counts them.

    Raises:
        UserError: a sentence has more tokens than the text tower takes, or the precision overflows.
    """
    assert templates
    group = _group(clip, templates)
    rows = cache.load(group) if cache else {}
    missing = [word for word in class_prompts.words if _row_key(word) not in rows]
    lengths = [_token_lengths(clip, class_prompts, word, templates) for word in missing]
    size = max(1, BLOCK_SENTENCES // len(templates))
    for start in range(0, len(missing), size):
        some = slice(start, start + size)
        new = _embed(clip, missing[some], templates, np.stack(lengths[some]), chunk)
        rows |= new
        if cache:
            cache.store(group, new)
        if progress:
            progress(start + len(new), len(missing))
    matrix = torch.from_numpy(np.stack([rows[_row_key(word)] for word in class_prompts.words]))  # (P, D)
    owner = torch.tensor(class_prompts.class_of_prompt, dtype=torch.int64)
    return ClassEmbeddings(matrix.to(clip.device), owner.to(clip.device), class_prompts.classes)


def _token_lengths(
    clip: TextEncoder, class_prompts: ClassPrompts, word: str, templates: Sequence[str]
) -> np.ndarray:
    """Tokens of a prompt's sentences, (T,)."""
    lengths = np.array(clip.token_lengths(_sentences(word, templates)), np.int32)
    if lengths.max() > clip.text.context_length:
        name = class_prompts.classes[class_prompts.class_of_prompt[class_prompts.words.index(word)]]
        raise UserError(
            f"class {show(name)}: prompt {show(word)} makes a sentence of {lengths.max()} tokens, "
            f"the text tower reads {clip.text.context_length}; shorten it"
        )
    return lengths


def _embed(
    clip: TextEncoder, words: Sequence[str], templates: Sequence[str], lengths: np.ndarray, chunk: int
) -> Rows:
    """Unit rows of some prompts, which fit into memory under all templates at once; `lengths` (K, T)."""
    sentences = [sentence for word in words for sentence in _sentences(word, templates)]  # K * T
    place: dict[str, int] = {}  # each sentence once, from short to long
    for i in np.argsort(lengths, axis=None, kind="stable"):
        place.setdefault(sentences[i], len(place))
    unique = list(place)
    index = torch.tensor([place[sentence] for sentence in sentences]).view(len(words), -1)  # (K, T)
    with torch.inference_mode():
        parts = [clip.encode_text(unique[i : i + chunk]).float() for i in range(0, len(unique), chunk)]
        features = torch.cat(parts)  # (U, D)
        matrix = ensemble(features[index.to(features.device)]).cpu().numpy()  # (K, D)
    if not np.isfinite(matrix).all():
        raise UserError(f"the text tower overflows in {str(clip.dtype).removeprefix('torch.')}; use float32")
    return {_row_key(word): row for word, row in zip(words, matrix, strict=True)}


def _sentences(word: str, templates: Sequence[str]) -> list[str]:
    """One sentence a template; a literal is all of them, so that its mean is itself."""
    if word.startswith(LITERAL):
        return [word.removeprefix(LITERAL).strip()] * len(templates)
    return [fill(template, word) for template in templates]


def _group(clip: TextEncoder, templates: Sequence[str]) -> str:
    """Everything but the word that a row depends on."""
    parts = ("1", clip.fingerprint, str(clip.dtype), list(templates))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _row_key(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


USUAL_BACKGROUND = (  # things that pictures show behind other things
    "background", "sky", "wall", "floor", "ground", "grass", "road", "tree", "building", "water", "mountain",
    "ceiling", "sand", "snow",
)  # fmt: skip
POOL_TEMPLATES = ("a photo of a {}.",)  # one sentence a word: 85 of them would take minutes with a large CLIP
HEAD_START = (
    2.5  # logits that the user's words are ahead of the pool: chosen on 36 scenes of the training split
)
NEAR = 4.0  # standard deviations that a word of the pool lies closer to a word of the user than the others do


def pool() -> tuple[str, ...]:
    """About 650 generic words: animals, plants, food, objects, vehicles, buildings, and stuff."""
    return tuple(dict.fromkeys((*sprite_names(), *TEXTURES, *USUAL_BACKGROUND[1:])))


def with_pool(
    classes: ClassEmbeddings, words: tuple[str, ...], generic: ClassEmbeddings, lead: float
) -> ClassEmbeddings:
    """The user's classes, whose prompts are `words`, behind class 0 of the generic words that are not near them.

    lead: cosine that the user's words are ahead.
    """
    kept = generic.matrix[~near(classes.matrix, words, generic)]
    owner = torch.cat([classes.class_of_prompt.new_zeros(len(kept)), classes.class_of_prompt + 1])
    matrix = torch.cat([kept.to(classes.matrix), classes.matrix])
    return ClassEmbeddings(matrix, owner, (BACKGROUND, *classes.classes), len(kept), lead)


def near(own: Tensor, words: tuple[str, ...], generic: ClassEmbeddings) -> Tensor:
    """(G,) bool: generic words that would take pixels of the user's, by their letters or their vectors.

    own: (P, D) unit vectors of the prompts `words`. Near is what shares a word with a prompt ("racing car" and "car")
    or stands out among the pool's cosines with it, whatever a CLIP's cosines are like.
    """
    cosines = own @ generic.matrix.to(own).T  # (P, G)
    far = cosines.mean(1, keepdim=True) + NEAR * cosines.std(1, keepdim=True)
    close = (cosines > far).any(0)
    taken = {stem(part) for word in words for part in word.lower().split()}
    alike = [any(stem(part) in taken for part in word.split()) for word in generic.classes]
    return close | torch.tensor(alike, device=own.device)


def stem(word: str) -> str:
    """A word without its plural's s."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word
