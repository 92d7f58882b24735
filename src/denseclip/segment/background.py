"""Generic words that stand for everything the user's words are not."""

import torch
from torch import Tensor

from denseclip.data.stickers import TEXTURES, sprite_names
from denseclip.segment.settings import USUAL_BACKGROUND
from denseclip.text import BACKGROUND, ClassEmbeddings

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
