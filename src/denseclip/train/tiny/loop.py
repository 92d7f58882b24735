"""The training loop of the tiny CLIPs: seeded, resumable, on whatever the machine has."""

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from denseclip.clip.clip import OPENAI_STATS
from denseclip.clip.device import has_bf16
from denseclip.clip.folder import ASSETS
from denseclip.clip.model import ResNet, build_towers
from denseclip.clip.tokenizer import Tokenizer, tokenizer_for
from denseclip.data.stickers import COLOURS, TEXTURES, sprite_names
from denseclip.data.stickers.sprites import RECOLOURABLE
from denseclip.files import atomic_path
from denseclip.text import TEMPLATES_85
from denseclip.train.tiny.losses import bank_contrast, pair_contrast, phrase_contrast, place_contrast, spread
from denseclip.train.tiny.pairs import WORDS, Pairs, batches
from denseclip.train.tiny.recipes import TinyRecipe

Untyped: TypeAlias = Any
SAVE_EVERY = 240.0  # seconds
BANK_STEPS = 20


class Trainee(nn.Module):
    """The model under training: pictures of any size and sentences to unit vectors."""

    mean: Tensor
    std: Tensor
    bank: Tensor
    bank_age: Tensor

    def __init__(self, recipe: TinyRecipe) -> None:
        super().__init__()
        config = dict(recipe.config)
        self.model = build_towers(config)
        self.patch_dropout = recipe.patch_dropout
        self.model.visual.to(memory_format=torch.channels_last)
        nn.init.constant_(self.model.logit_scale, math.log(recipe.first_scale))
        self.register_buffer("bank", torch.zeros(len(WORDS), config["embed_dim"]))
        self.register_buffer("bank_age", torch.zeros((), dtype=torch.long))
        self.tokenizer: Tokenizer = tokenizer_for(config["text_cfg"], recipe.name)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (OPENAI_STATS.mean, OPENAI_STATS.std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def pictures(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, S, S) uint8 -> unit rows (B, D) of pictures and (B, P, D) of the places that were pooled."""
        x = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        visual = self.model.visual
        if isinstance(visual, ResNet):
            x, pool = visual.last_map(x), visual.pool  # (B, 32w, h, w)
            pooled = pool(x)[0]
            places = pool.c_proj(pool.v_proj(x.flatten(2).mT))  # (B, P, D), the value path
        else:
            x, _ = visual.embed(x)  # (B, 1 + P, W)
            if self.training and self.patch_dropout:
                kept = torch.rand(x.shape[1] - 1, device=x.device) >= self.patch_dropout
                x = torch.cat([x[:, :1], x[:, 1:][:, kept]], dim=1)
            x = visual.transformer(x)
            pooled, places = visual.pooled(x), visual.project(x[:, 1:])  # (B, P, D)
        return F.normalize(pooled, dim=-1), F.normalize(places, dim=-1)

    def sentences(self, texts: list[str]) -> Tensor:
        """N sentences -> (N, D) unit rows."""
        tokens = self.tokenizer(texts).to(self.mean.device)
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        return F.normalize(self.model.text(tokens), dim=-1)

    @torch.no_grad()
    def word_bank(self) -> Tensor:
        """Unit rows (W, D) of all bare words, made anew every `BANK_STEPS` calls."""
        if self.bank_age % BANK_STEPS == 0:
            self.bank.copy_(self.sentences(list(WORDS)))
        self.bank_age += 1
        return self.bank

    def loss(self, batch: Pairs) -> Tensor:
        """Phrases for all pictures, whole captions, which are three times as long, for an eighth of them."""
        scale = self.model.logit_scale.exp()
        images, places = self.pictures(batch.images.to(self.mean.device))
        some = max(2, len(images) // 8)
        phrases, whole = self.sentences(batch.phrases), self.sentences(batch.whole[:some])
        loss = phrase_contrast(images, phrases, batch.matches.to(images.device), scale)
        known = batch.known.to(images.device)
        bank = scale * self.word_bank()[: known.shape[1]]  # (W, D)
        loss = loss + bank_contrast(images @ bank.T, known)
        if batch.all_named:
            by_place = places @ bank.T  # (B, P, W)
            loss = loss + place_contrast(by_place, known) + 0.5 * bank_contrast(by_place.amax(1), known)
        return loss + 0.25 * pair_contrast(images[:some], whole, scale) + 2 * spread(phrases)


def optimizer_for(trainee: Trainee, recipe: TinyRecipe) -> torch.optim.AdamW:
    """AdamW; only matrices are decayed, the text tower learns slowly."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in trainee.named_parameters():
        decayed = parameter.ndim >= 2 and "embedding" not in name
        groups.setdefault((decayed, name.startswith("model.text.")), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "weight_decay": recipe.weight_decay if decayed else 0.0,
                "rate": recipe.text_rate if text else 1.0,
            }
            for (decayed, text), parameters in groups.items()
        ],
        lr=recipe.lr,
        betas=(0.9, 0.98),
    )


def learning_rate(recipe: TinyRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the end of the cycle that optimiser step `step` is in."""
    first, length, peak = recipe.cycle_at(step)
    if step - first < recipe.warmup_steps:
        return peak * (step - first + 1) / recipe.warmup_steps
    return peak * 0.5 * (1 + math.cos(math.pi * (step - first) / length))


def take_words(trainee: Trainee, name: str) -> None:
    """Start with the text tower and the scale of an embedded tiny CLIP."""
    weights = load_file(ASSETS / name / "model.safetensors")
    own = trainee.model.state_dict()
    text = {
        key: tensor.to(own[key].dtype) for key, tensor in weights.items() if not key.startswith("visual.")
    }
    wanted = {key for key in own if not key.startswith("visual.")}
    assert set(text) == wanted, sorted(set(text) ^ wanted)
    trainee.model.load_state_dict(own | text)


def learn_words(trainee: Trainee, recipe: TinyRecipe, batch: int = 160) -> float:
    """Contrast sentences with sentences: the same word in two templates belongs together. Returns the last loss.

    Pictures cannot part words that look alike to them, nor learn what words that are alike ask of them, so a
    text tower that starts with its words apart saves most of the time that training from pictures would need.
    """
    words = [*sprite_names(), *(f"{c} {name}" for c in COLOURS for name in sorted(RECOLOURABLE)), *TEXTURES]
    rng = random.Random(recipe.seed)
    optimizer = torch.optim.AdamW(trainee.model.text.parameters(), lr=recipe.lr)
    loss = torch.zeros(())
    for _ in range(recipe.text_steps):
        some = rng.sample(words, min(batch, len(words)))
        first, second = ([rng.choice(TEMPLATES_85).format(word) for word in some] for _ in range(2))
        features = trainee.sentences(first + second)
        loss = pair_contrast(features[: len(some)], features[len(some) :], torch.tensor(14.0))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return loss.item()


def train(recipe: TinyRecipe, folder: Path, *, workers: int, report: Callable[[str], None]) -> Trainee:
    """Train from the last checkpoint in `folder`, or from the start; returns the trained model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    trainee = Trainee(recipe).to(device)
    optimizer = optimizer_for(trainee, recipe)
    checkpoint = folder / "last.pt"
    first, seconds = _resume(checkpoint, trainee, optimizer)
    if first == 0 and recipe.words_from:
        take_words(trainee, recipe.words_from)
    elif first == 0:
        report(f"loss of words alone {learn_words(trainee, recipe):.3f} after {recipe.text_steps} steps")
    saved = last = time.monotonic()
    begun, before = first, seconds
    for done, batch in enumerate(batches(recipe, first, workers), start=first + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, done - 1) * group["rate"]
        loss = _step(trainee, optimizer, batch)
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        if done % 20 == 1:
            pace = (seconds - before) / (done - begun)
            left, speed = pace * (recipe.steps - done) / 60, recipe.batch / pace
            report(f"step {done}/{recipe.steps} loss {loss:.3f} pictures/s {speed:.1f} left {left:.1f} min")
        if now - saved > SAVE_EVERY or done == recipe.steps:
            _save(checkpoint, trainee, optimizer, done, seconds)
            saved = now
    return trainee.eval()


def _step(trainee: Trainee, optimizer: torch.optim.Optimizer, batch: Pairs) -> float:
    trainee.train()
    device = trainee.mean.device
    with torch.autocast(device.type, torch.bfloat16, enabled=has_bf16(device)):
        loss = trainee.loss(batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(trainee.parameters(), 1.0)
    optimizer.step()
    with torch.no_grad():
        trainee.model.logit_scale.clamp_(0, math.log(100))
    return loss.item()


def _resume(path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location="cpu")
    trainee.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["rng"])
    return int(state["step"]), float(state["seconds"])


def _save(path: Path, trainee: Trainee, optimizer: torch.optim.Optimizer, step: int, seconds: float) -> None:
    state = {
        "model": trainee.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "step": step,
        "seconds": seconds,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
