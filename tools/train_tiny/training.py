"""The training loop of the tiny CLIPs: seeded, resumable, on whatever the machine has."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from denseclip.io import atomic_path
from denseclip.train.batches import in_order
from tools.train_tiny.batches import Batch, Batches
from tools.train_tiny.recipes import TinyRecipe
from tools.train_tiny.trainee import Teacher, Trainee, learn_words

SAVE_EVERY = 60.0  # seconds


class Run:
    """A trainee with its optimizer and the average of its weights: what a checkpoint holds."""

    def __init__(self, recipe: TinyRecipe, teacher: Teacher | None, device: torch.device, bf16: bool) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.device, self.bf16 = recipe, device, bf16
        self.trainee = Trainee(recipe, teacher).to(device)
        self.optimizer = optimizer_for(self.trainee, recipe)
        self.average = AveragedModel(self.trainee.model, avg_fn=_running(recipe.average[1]), use_buffers=True)
        self.done = 0

    def step(self, batch: Batch) -> float:
        """One optimizer step, the next; returns its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, self.done) * group["rate"]
        self.trainee.model.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self.trainee.loss(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trainee.parameters(), 1.0)
        self.optimizer.step()
        with torch.no_grad():
            self.trainee.model.logit_scale.clamp_(0, math.log(100))
        self.done += 1
        if self.done % self.recipe.average[0] == 0 or self.done == self.recipe.steps:
            self.average.update_parameters(self.trainee.model)
        return loss.item()

    def save(self, path: Path) -> None:
        """Everything that the rest of the run depends on."""
        parts = {name: getattr(self, name).state_dict() for name in ("trainee", "optimizer", "average")}
        with atomic_path(path) as temporary:
            torch.save(parts | {"done": self.done}, temporary)

    def load(self, path: Path) -> None:
        """Go on from there."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name in ("trainee", "optimizer", "average"):
            getattr(self, name).load_state_dict(state[name])
        self.done = state["done"]


def train(run: Run, folder: Path, *, workers: int, report: Callable[[str], None] = print) -> nn.Module:
    """Train from the checkpoint in `folder`, or from the start; returns the average of the weights.

    On a CPU, a run that was interrupted ends with the same bits as one that was not.
    """
    recipe, checkpoint = run.recipe, folder / "last.pt"
    if checkpoint.exists():
        run.load(checkpoint)
    elif not recipe.taught:
        report(f"loss of words alone {learn_words(run.trainee, recipe):.3f} after {recipe.text_steps} steps")
    saved = start = time.monotonic()
    begun = run.done
    for batch in in_order(Batches(recipe, run.done), workers):
        loss = run.step(batch)
        now = time.monotonic()
        if run.done % 20 == 1:
            pace = (now - start) / (run.done - begun)
            left = f"{len(batch.images) / pace:.1f} pictures/s, {pace * (recipe.steps - run.done) / 60:.1f} min left"
            report(f"step {run.done}/{recipe.steps} loss {loss:.3f} {left}")
        if now - saved > SAVE_EVERY or run.done == recipe.steps:
            run.save(checkpoint)
            saved = now
    return run.average.module.eval()


def fitted(run: Run, minutes: float, workers: int) -> TinyRecipe:
    """The recipe with as many steps, in the same proportions, as this machine makes in that time.

    Each stage's drawing of scenes and its steps are timed; `run` is of no use afterwards.
    """
    recipe, batches, first, seconds = run.recipe, Batches(run.recipe), 0, 0.0
    for stage in recipe.stages:
        run.step(batches[first])
        begun = time.monotonic()
        batch, first = batches[first], first + stage.steps
        drawn = time.monotonic()
        times = 0
        while times < 3 and (not times or time.monotonic() - drawn < 5):
            run.step(batch)
            times += 1
        step, draw = (time.monotonic() - drawn) / times, drawn - begun
        seconds += stage.steps * (max(step, draw / workers) if workers else step + draw)
    share = minutes * 60 / seconds
    stages = (replace(stage, steps=max(1, round(stage.steps * share))) for stage in recipe.stages)
    return replace(recipe, stages=tuple(stages))


def optimizer_for(trainee: Trainee, recipe: TinyRecipe) -> torch.optim.AdamW:
    """AdamW; only matrices are decayed, the text tower learns slowly, or not at all."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trainee.named_parameters():
        if parameter.requires_grad:
            decay = recipe.weight_decay if parameter.ndim >= 2 and "embedding" not in name else 0.0
            rate = recipe.text_rate if name.startswith("model.text.") else 1.0
            groups.setdefault((decay, rate), []).append(parameter)
    parts = [{"params": some, "weight_decay": decay, "rate": rate} for (decay, rate), some in groups.items()]
    return torch.optim.AdamW(parts, lr=recipe.lr, betas=(0.9, 0.98))


def learning_rate(recipe: TinyRecipe, step: int) -> float:
    """Linear warm-up times a cosine to zero at the end of the cycle that optimizer step `step` is in."""
    first, length, peak = recipe.cycle_at(step)
    warm = min(1.0, (step - first + 1) / max(1, recipe.warmup * length))
    return peak * warm * (1 + math.cos(math.pi * (step - first) / length)) / 2


def _running(decay: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    """A plain mean of the first few, then an exponential one, which forgets the start of a short run too."""

    def update(average: Tensor, new: Tensor, taken: Tensor | int) -> Tensor:
        share = max(1 - decay, 1 / (int(taken) + 1))
        return average.lerp(new, share) if average.is_floating_point() else new

    return update
