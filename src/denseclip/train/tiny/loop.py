"""The training loop of the tiny CLIPs: seeded, resumable, on whatever the machine has."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.clip import OPENAI_STATS
from denseclip.clip.device import has_bf16
from denseclip.clip.tokens import Tokenizer, tokenizer_for
from denseclip.clip.towers import TextTower, untrained
from denseclip.files import atomic_path
from denseclip.train.tiny.losses import pair_contrast, phrase_contrast, spread
from denseclip.train.tiny.pairs import Pairs, batches
from denseclip.train.tiny.recipes import TinyRecipe

Untyped: TypeAlias = Any
SAVE_EVERY = 240.0  # seconds


class Trainee(nn.Module):
    """The model under training: pictures of any size and sentences to unit vectors."""

    mean: Tensor
    std: Tensor

    def __init__(self, recipe: TinyRecipe) -> None:
        super().__init__()
        config = dict(recipe.config)
        if recipe.patch_dropout:
            config["vision_cfg"] = {**config["vision_cfg"], "patch_dropout": recipe.patch_dropout}
        self.model: Untyped = untrained(config)
        self.model.visual.to(memory_format=torch.channels_last)
        self.tokenizer: Tokenizer = tokenizer_for(config["text_cfg"], recipe.name)
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (OPENAI_STATS.mean, OPENAI_STATS.std))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def pictures(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> (B, D) unit rows."""
        x = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        visual = self.model.visual
        if not hasattr(visual, "attnpool"):
            return F.normalize(visual(x), dim=-1)
        x = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(x)))))  # (B, 32w, h, w)
        position = resize_grid(visual.attnpool.positional_embedding, x.shape[-1])
        pooled = torch.func.functional_call(visual.attnpool, {"positional_embedding": position}, (x,))
        return F.normalize(pooled, dim=-1)

    def sentences(self, texts: list[str]) -> Tensor:
        """N sentences -> (N, D) unit rows."""
        tokens = self.tokenizer(texts).to(self.mean.device)
        tokens = tokens[:, : int((tokens != 0).sum(1).max())]
        return F.normalize(TextTower(self.model.text, quick_gelu=False)(tokens), dim=-1)

    def loss(self, batch: Pairs) -> Tensor:
        """Phrases for all pictures, whole captions, which are three times as long, for a quarter of them."""
        scale = self.model.logit_scale.exp()
        images = self.pictures(batch.images.to(self.mean.device))
        some = len(images) // 4
        phrases, whole = self.sentences(batch.phrases), self.sentences(batch.whole[:some])
        by_phrase = phrase_contrast(images, phrases, batch.matches.to(images.device), scale)
        return by_phrase + 0.25 * pair_contrast(images[:some], whole, scale) + 2 * spread(phrases)


def resize_grid(embedding: Tensor, side: int) -> Tensor:
    """Positional embedding (1 + g*g, C) of an attention pool -> (1 + side*side, C), bilinear."""
    grid = round((len(embedding) - 1) ** 0.5)
    if grid == side:
        return embedding
    spatial = embedding[1:].T.reshape(1, -1, grid, grid)
    spatial = F.interpolate(spatial, (side, side), mode="bilinear", align_corners=False)
    return torch.cat([embedding[:1], spatial.flatten(2)[0].T])


def optimizer_for(trainee: Trainee, recipe: TinyRecipe) -> torch.optim.AdamW:
    """AdamW; only matrices are decayed."""
    named = [(n, p) for n, p in trainee.named_parameters() if p.requires_grad]
    decayed = [p for n, p in named if p.ndim >= 2 and "embedding" not in n]
    free = [p for n, p in named if p.ndim < 2 or "embedding" in n]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))


def learning_rate(recipe: TinyRecipe, step: int) -> float:
    """Linear warm-up, then a cosine to zero at the last step."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * step / recipe.steps))


def train(recipe: TinyRecipe, folder: Path, *, workers: int, report: Callable[[str], None]) -> Trainee:
    """Train from the last checkpoint in `folder`, or from the start; returns the trained model."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(recipe.seed)
    trainee = Trainee(recipe).to(device)
    optimizer = optimizer_for(trainee, recipe)
    checkpoint = folder / "last.pt"
    first, seconds = _resume(checkpoint, trainee, optimizer)
    saved = last = time.monotonic()
    for done, batch in enumerate(batches(recipe, first, workers), start=first + 1):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, done - 1)
        loss = _step(trainee, optimizer, batch)
        now = time.monotonic()
        seconds, last = seconds + now - last, now
        if done % 20 == 1:
            left = seconds / done * (recipe.steps - done) / 60
            speed = done * recipe.batch / seconds
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
