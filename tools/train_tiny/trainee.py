"""The model under training, its loss, and the teacher of its places."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2.functional import normalize

from denseclip.clip.build import build_towers
from denseclip.clip.clip import OPENAI_STATS, Clip, tokenizer_for
from denseclip.clip.towers import ResNet
from denseclip.data.stickers import COLORS, TEXTURES, sprite_names
from denseclip.data.stickers.scenes import RECOLORABLE
from denseclip.segment.attention import dense_block
from denseclip.segment.settings import DenseOptions
from tools.train_tiny.batches import WHOLE, WORDS, Batch, phrase
from tools.train_tiny.contrast import bank_contrast, pair_contrast, phrase_contrast, place_contrast, spread
from tools.train_tiny.recipes import TinyRecipe


class Teacher:
    """A frozen CLIP ResNet that says which of its caption's words a place shows. It never sees a mask either."""

    def __init__(self, clip: Clip) -> None:
        assert isinstance(clip.visual, ResNet)
        self.clip, self.visual = clip, clip.visual

    @torch.no_grad()
    def words(self, images: Tensor, bank: Tensor, known: Tensor) -> Tensor:
        """Probabilities (B, S/8 * S/8, W) of the bank's words at every place, zero for those not in the caption.

        images: (B, 3, S, S), normalized, S a multiple of 16. bank: (W, D) unit rows. known: (B, W) bool.
        Its value path at stride 16 is run on four pictures shifted by 4 pixels, whose cells are interleaved.
        """
        rows = [torch.stack([self._places(images, dy, dx) for dx in (4, -4)], 3) for dy in (4, -4)]
        places = torch.stack(rows, 2).flatten(1, 4)  # (B, S/16, 2, S/16, 2, D) -> (B, P, D)
        logits = self.clip.logit_scale * places @ bank.T  # (B, P, W)
        logits = logits.float().masked_fill(~known[:, None], float("-inf"))
        return torch.nan_to_num(logits.softmax(-1))  # pictures without a known word: zeros

    def _places(self, images: Tensor, dy: int, dx: int) -> Tensor:
        """Unit vectors (B, S/16, S/16, D) of the picture moved down by `dy` and right by `dx` pixels."""
        side = images.shape[-1]
        padded = F.pad(images, (4, 4, 4, 4), mode="replicate")
        moved = padded[..., 4 - dy : 4 - dy + side, 4 - dx : 4 - dx + side]
        values = self.visual.pool.v_proj(self.visual.last_map(moved, 16).permute(0, 2, 3, 1))
        return F.normalize(self.visual.pool.c_proj(values), dim=-1)


class Trainee(nn.Module):
    """The model under training: pictures of any size and sentences to unit vectors.

    teacher: for a recipe that is taught; its text tower is taken over and stays as it is.
    """

    words: Tensor

    def __init__(self, recipe: TinyRecipe, teacher: Teacher | None = None) -> None:
        super().__init__()
        assert recipe.taught == (teacher is not None)
        self.model = build_towers(recipe.config)
        self.model.visual.to(memory_format=torch.channels_last)
        nn.init.constant_(self.model.logit_scale, math.log(20))
        self.teacher = teacher
        if teacher is not None:
            self.model.text.load_state_dict(teacher.clip.text.state_dict())
            self.model.text.requires_grad_(False)
        self.tokenizer = tokenizer_for(recipe.config["text_cfg"], recipe.name)
        self.register_buffer("words", self.tokenizer(WORDS), persistent=False)

    def pictures(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S), normalized -> unit rows (B, D) of pictures and (B, P, D) of places by the value path."""
        visual = self.model.visual
        if isinstance(visual, ResNet):
            x, pool = visual.last_map(images), visual.pool  # (B, 32w, h, w)
            pooled, places = pool(x)[0], pool.c_proj(pool.v_proj(x.flatten(2).mT))
        else:
            x, grid = visual.embed(images)  # (B, 1 + P, W)
            *blocks, last = visual.transformer.blocks
            for block in blocks:
                x = block(x)
            pooled = visual.pooled(last(x))
            places = visual.project(dense_block(last, x, DenseOptions(), grid)[:, 1:])
        return F.normalize(pooled.float(), dim=-1), F.normalize(places.float(), dim=-1)

    def sentences(self, tokens: Tensor) -> Tensor:
        """Tokens (N, L) -> (N, D) unit rows."""
        return F.normalize(self.model.text(tokens[:, : int((tokens != 0).sum(1).max())]).float(), dim=-1)

    def loss(self, batch: Batch) -> Tensor:
        """Contrast of pictures with phrases and words, of places with words, and of some pictures with sentences."""
        images, phrases, matches, known, whole = batch.to(self.words.device)
        x = normalize(images / 255, list(OPENAI_STATS.mean), list(OPENAI_STATS.std))
        x, scale = x.contiguous(memory_format=torch.channels_last), self.model.logit_scale.exp()
        (pooled, places), named, whole = self.pictures(x), self.sentences(phrases), self.sentences(whole)
        with torch.no_grad():
            words = self.sentences(self.words[: known.shape[1]])  # (W, D)
            told = self.teacher.words(x, words, known) if self.teacher else None  # (B, P, W)
        with torch.autocast(x.device.type, enabled=False):  # scaled cosines are too large for bf16
            loss = phrase_contrast(pooled, named, matches, scale)
            loss = loss + bank_contrast(scale * pooled @ words.T, known)
            loss = loss + pair_contrast(pooled[::WHOLE], whole, scale) / 4
            loss = loss if self.teacher else loss + 2 * spread(named)
            if known.shape[1] < len(WORDS):  # captions that leave out the textures say nothing of places
                return loss
            by_place = scale * places @ words.T  # (B, P, W)
            loss = loss + bank_contrast(by_place.amax(1), known) / 2
            if told is None:
                return loss + place_contrast(by_place, known)
            each = -(told * by_place.log_softmax(-1)).sum(-1).mean(1)  # (B,); 0 where no word is known
            return loss + 2 * each.sum() / known.any(1).sum().clamp(min=1)


def learn_words(trainee: Trainee, recipe: TinyRecipe, batch: int = 160) -> float:
    """Contrast sentences with sentences: the same word in two templates belongs together. Returns the last loss.

    Pictures cannot part words that look alike to them, nor learn what words that are alike ask of them, so a
    text tower that starts with its words apart saves most of the time that training from pictures would need.
    """
    colored = (f"{color} {name}" for color in COLORS for name in sorted(RECOLORABLE))
    words = np.array([*sprite_names(), *colored, *TEXTURES])
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(trainee.model.text.parameters(), lr=recipe.lr)
    loss = torch.zeros(())
    for _ in range(recipe.text_steps):
        some = rng.choice(words, min(batch, len(words)), replace=False)
        texts = trainee.tokenizer([phrase(str(word), rng) for _ in range(2) for word in some])
        features = trainee.sentences(texts.to(trainee.words.device))
        loss = pair_contrast(features[: len(some)], features[len(some) :], torch.tensor(14.0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return loss.item()
