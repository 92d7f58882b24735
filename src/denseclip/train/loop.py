"""The one training loop, its checks for drift, and its journal."""

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy, FSDPStrategy, Strategy
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from denseclip.clip.device import Precision, pick_precision
from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from denseclip.models.checkpoint import read_saved
from denseclip.train.batches import AnyBatch
from denseclip.train.progress import BEST, LAST, Progress, resume, save
from denseclip.train.recipe import OptimizerPart, TrainRecipe
from denseclip.train.recompute import recompute_blocks, residual_blocks
from denseclip.train.task import Task


class SyncNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics come from all processes of the default group (any back end)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same; every process must have the same number of elements a channel."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        sums = torch.stack([x.float().sum((0, 2, 3)), x.float().square().sum((0, 2, 3))])  # (2, C)
        mean, square = dist_nn.all_reduce(sums) / count
        var = (square - mean.square()).clamp_min(0)
        self._remember(mean.detach(), var.detach() * count / max(count - 1, 1))
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None].to(x.dtype) + (self.bias - mean * scale)[:, None, None].to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


def synchronized(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with all its batch norms over processes; names and weights stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncNorm
    return model


FEWER_CLASSES = 0.7  # of the effective number at the end of guidance
LESS_AGREEMENT = 0.9  # of the agreement at the end of guidance; it rises where self-training works


def watch(
    predicted: Tensor, reference: Tensor, hidden: Tensor, classes: int, candidates: Sequence[int]
) -> dict[str, float]:
    """Figures of predictions on pictures held out.

    predicted: (N, H, W) classes. reference: (N, H, W), the annotation where there is one, the teacher's labels where
    it is hidden, outside 0..classes-1 where nothing is known. hidden: (N, H, W) bool. candidates: the classes that
    hidden pixels can be of.
    Returns score: mean IoU of predicted and reference; agreement: the same where hidden; classes: effective number
    of candidates predicted where hidden, the exponential of their entropy; that other classes die out there is no
    drift.
    """
    known = (reference >= 0) & (reference < classes)
    counts = torch.bincount(predicted[hidden & known], minlength=classes).double()[list(candidates)]
    shares = counts[counts > 0] / counts.sum().clamp_min(1)
    return {
        "score": _mean_iou(predicted[known], reference[known], classes),
        "agreement": _mean_iou(predicted[hidden & known], reference[hidden & known], classes),
        "classes": float((-(shares * shares.log()).sum()).exp()) if len(shares) else 0.0,
    }


def check_drift(before: Mapping[str, float], now: Mapping[str, float]) -> str | None:
    """What is wrong with self-training, if anything is; `before`: figures at the end of guidance."""
    if now["classes"] < FEWER_CLASSES * before["classes"]:
        return (
            f"self-training drifts: it predicts {now['classes']:.1f} classes in effect, "
            f"{before['classes']:.1f} when it began"
        )
    if now["agreement"] < LESS_AGREEMENT * before["agreement"]:
        return (
            f"self-training drifts: mIoU against the teacher's labels fell from {before['agreement']:.2f} "
            f"to {now['agreement']:.2f}"
        )
    return None


def _mean_iou(first: Tensor, second: Tensor, classes: int) -> float:
    """Mean over the classes that occur in either; both (M,) int64."""
    counts = torch.bincount(first * classes + second, minlength=classes**2).view(classes, classes).double()
    both = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - both
    return float((both[union > 0] / union[union > 0]).mean()) if (union > 0).any() else 0.0


SCALARS_EVERY = 10  # steps
SKIPPED = "skipped.txt"


class Journal:
    """Writes into the run's folder; scalars of steps after `step`, from an interrupted run, are hidden."""

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder = folder
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        path = folder / SKIPPED
        self.skipped = path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._board.close()

    def note(self, told: "StepLog", parts: Iterable[AnyBatch]) -> None:
        """The values of a step, and images that were skipped in it for the first time."""
        if told.step % SCALARS_EVERY == 0 or told.step == 1:
            self.scalars({**told.values, "images_per_second": told.images_per_second}, told.step)
        new = dict.fromkeys(line for batch in parts for line in batch.skipped if line not in self.skipped)
        if new:
            self.skipped += new
            write_text(self.folder / SKIPPED, "\n".join(self.skipped) + "\n")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write scalars for TensorBoard."""
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def panel(self, picture: NDArray[np.uint8], step: int) -> None:
        """A panel as a PNG and for TensorBoard; picture: (H, W, 3) uint8 RGB."""
        with atomic_path(self.folder / "panels" / f"{step:06d}.png") as temporary:
            Image.fromarray(picture).save(temporary)
        self._board.add_image("panel", picture, step, dataformats="HWC")


Untyped: TypeAlias = Any


@dataclass(frozen=True)
class StepLog:
    """What is reported after an optimizer step."""

    step: int
    phase: str
    values: dict[str, float]
    images_per_second: float
    seconds_left: float


MIXED = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # of Fabric


def training_precision(wanted: str, device: str, folder: Path) -> Precision:
    """What a training runs in: as it began, on whatever machine it goes on; else as wanted, see `pick_precision`."""
    kind = torch.device("cuda" if _on_gpu(device) else "cpu")
    if wanted == "auto" and (folder / LAST).exists():
        begun = read_saved(folder / LAST).get("precision")
        if begun is not None:
            return Precision(begun, "auto: as the training began")
    return pick_precision(wanted, kind)


def make_fabric(precision: Precision, *, device: str = "auto", strategy: str = "auto") -> Fabric:
    """The engine: processes as `torchrun` started them, else one.

    strategy: "auto" (one process, or DDP), "ddp" or "fsdp". Raises UserError if FSDP is asked for without GPUs.
    """
    local, world = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    cuda = _on_gpu(device)
    if strategy == "fsdp" and not cuda:
        raise UserError("fsdp needs GPUs; leave out --strategy, or run where there are some")
    devices: Any = local if world > 1 else 1
    if cuda and ":" in device:
        devices = [int(device.partition(":")[2])]
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=world // local,
        strategy=_strategy(strategy, world),
        precision=MIXED[precision.name],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def _on_gpu(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _strategy(name: str, world: int) -> "str | Strategy":
    if name == "fsdp":
        return FSDPStrategy(state_dict_type="full")
    if name == "ddp" or world > 1:
        return DDPStrategy(find_unused_parameters=True)
    return "auto"


def compile_blocks(task: Task) -> None:
    """Compile the residual blocks of what learns, each shape of block once; names of weights stay."""
    torch._dynamo.config.recompile_limit = 64  # kinds of blocks, times training and not
    for block in residual_blocks(task):
        block.compile()


def make_optimizer(task: Task, part: OptimizerPart, precision: Precision) -> torch.optim.Optimizer:
    """SGD or AdamW over the task's groups, whose "rate" is kept for the schedule.

    A fused AdamW takes the scale of fp16 off its gradients by itself, too late for them to be clipped.
    """
    groups = [{"rate": 1.0, **group} for group in task.parameter_groups()]
    if part.name == "sgd":
        return torch.optim.SGD(groups, part.lr, momentum=part.momentum, weight_decay=part.weight_decay)
    fused = precision.name != "fp16"
    return torch.optim.AdamW(groups, part.lr, weight_decay=part.weight_decay, fused=fused)


class Loop:
    """A task on its way from the last checkpoint in `folder`, or from the start, to the end of the recipe."""

    def __init__(
        self, task: Task, recipe: TrainRecipe, folder: Path, fabric: Fabric, precision: Precision
    ) -> None:
        self.task, self.recipe, self.folder, self.fabric = task, recipe, folder, fabric
        self.precision = precision
        self.parts = recipe.parts(fabric.world_size)
        if fabric.world_size > 1:
            synchronized(task, fabric.device)
        task.to(memory_format=torch.channels_last)
        if recipe.checkpointing:
            recompute_blocks(task)
        if recipe.compile:
            compile_blocks(task)
        optimizer = make_optimizer(task, recipe.optimizer, precision)
        self.model: Untyped
        self.optimizer: Untyped
        self.model, self.optimizer = fabric.setup(task, optimizer)
        self.progress = Progress()
        if (folder / LAST).exists():
            self.progress = resume(fabric, folder / LAST, self.model, self.optimizer, recipe)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.progress.step >= self.recipe.steps

    def run(
        self,
        batches: Iterator[AnyBatch],
        on_step: Callable[[StepLog], None] | None = None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        """Train to the end. `batches`: from the step of `progress` on, `accumulate` a step.

        stop: asked after each step; if it says so, a checkpoint is written and the rest is left for later.
        """
        journal = Journal(self.folder, self.progress.step) if self.fabric.is_global_zero else None
        begun, first, earlier = time.monotonic(), self.progress.step, self.progress.seconds
        with journal or nullcontext():
            while parts := list(islice(batches, self.parts)):
                values = self.step(parts)
                spent = time.monotonic() - begun
                self.progress.seconds = earlier + spent
                pace = spent / (self.progress.step - first)
                left = pace * (self.recipe.steps - self.progress.step)
                told = StepLog(
                    self.progress.step,
                    self.task.phase(self.progress.step),
                    values,
                    self.recipe.batch / pace,
                    left,
                )
                if on_step:
                    on_step(told)
                if journal:
                    journal.note(told, parts)
                self._now_and_then(parts[-1], journal)
                if stop and not self.done and stop():
                    self.save(LAST)
                    return

    def step(self, parts: list[AnyBatch]) -> dict[str, float]:
        """One optimizer step over its parts; mean values of this process."""
        step = self.progress.step + 1
        torch.manual_seed((self.recipe.seed * 1_000_003 + step) * 4_099 + self.fabric.global_rank)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, step, group["rate"])
        self.model.train()
        found = [self._part(part, step, last=part is parts[-1]) for part in parts]
        if self.recipe.optimizer.clip:
            limit = self.recipe.optimizer.clip
            norm = self.fabric.clip_gradients(
                self.model, self.optimizer, max_norm=limit, error_if_nonfinite=False
            )
            if self.precision.name != "fp16":  # whose scaler leaves such a step out
                _finite({"gradient": float(norm)} if norm is not None else {}, step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.progress.step = step
        means = {name: float(torch.stack([one[name] for one in found]).mean()) for name in found[0]}
        _finite(means, step)
        return means | {"lr": learning_rate(self.recipe, step)}

    def _part(self, batch: AnyBatch, step: int, *, last: bool) -> dict[str, Tensor]:
        batch = batch.to(self.fabric.device)
        with self.fabric.no_backward_sync(self.model, enabled=not last):
            values: dict[str, Tensor] = self.model(batch, step)
            self.fabric.backward(values["loss"] / self.parts)
        return {name: value.detach() for name, value in values.items()}

    def _now_and_then(self, batch: AnyBatch, journal: "Journal | None") -> None:
        step, recipe = self.progress.step, self.recipe
        last = step == recipe.steps
        if recipe.probe_every and (step % recipe.probe_every == 0 or last):
            self._probe(journal)
        if journal and recipe.panel_every and (step % recipe.panel_every == 0 or last):
            with self.fabric.autocast():
                panel = self.task.visualize(batch.to(self.fabric.device), step)
            if panel is not None:
                journal.panel(panel, step)
        if last or (recipe.save_every and step % recipe.save_every == 0):
            self.save(LAST)

    def _probe(self, journal: "Journal | None") -> None:
        """Look at pictures held out; the best state of a run is kept beside the last one."""
        self.model.eval()
        with self.fabric.autocast():
            found = self.task.probe(self.progress.step)
        if not found:
            return
        if journal:
            journal.scalars({f"probe/{name}": value for name, value in found.items()}, self.progress.step)
        if self.task.phase(self.progress.step) != "self-training":
            self.progress.reference = found
        elif self.progress.reference and (wrong := check_drift(self.progress.reference, found)):
            self.progress.warnings.append(f"step {self.progress.step}: {wrong}; best.pt holds the best state")
        if self.progress.best is None or found["score"] > self.progress.best:
            self.progress.best, self.progress.best_step = found["score"], self.progress.step
            self.save(BEST)

    def save(self, name: str) -> None:
        """Write a checkpoint into the folder."""
        save(
            self.fabric,
            self.folder / name,
            self.model,
            self.optimizer,
            self.progress,
            self.recipe,
            self.task.metadata(),
            self.precision.name,
        )


def _finite(values: dict[str, float], step: int) -> None:
    broken = next((name for name, value in values.items() if not math.isfinite(value)), None)
    if broken:
        raise UserError(
            f"the {broken} is not a number at step {step}; lower optimizer.lr, or set precision=fp32"
        )


def learning_rate(recipe: TrainRecipe, step: int, rate: float = 1.0) -> float:
    """Of optimizer step `step` (from 1), for a group with a factor of its own, after a linear warm-up."""
    part = recipe.optimizer
    warm: dict[str, Any] = {"warmup": part.warmup, "warmup_ratio": part.warmup_ratio}
    if part.drops:
        return step_lr(step - 1, part.lr * rate, part.drops, **warm)
    return poly_lr(step - 1, recipe.steps, part.lr * rate, power=part.power, min_lr=part.min_lr, **warm)


def poly_lr(
    iteration: int,
    max_iterations: int,
    base: float,
    *,
    power: float = 0.9,
    min_lr: float = 1e-4,
    warmup: int = 0,
    warmup_ratio: float = 1e-6,
) -> float:
    """Polynomial decay from `base` to `min_lr`, after a linear warm-up.

    lr = (base - min_lr) (1 - iteration / max_iterations)^power + min_lr, times
    1 - (1 - iteration / warmup) (1 - warmup_ratio) in the first `warmup` iterations. The defaults are MaskCLIP+'s
    (section d.3); DenseCLIP has min_lr 1e-6 and warmup 1500 (section 4.1) and calls this once a parameter group,
    with the group's own `base`.

    iteration: optimizer steps already made, so 0 for the first.
    """
    left = max(0.0, 1 - iteration / max_iterations)
    return ((base - min_lr) * left**power + min_lr) * _warm(iteration, warmup, warmup_ratio)


def step_lr(
    iteration: int,
    base: float,
    drops: Sequence[int],
    *,
    factor: float = 0.1,
    warmup: int = 0,
    warmup_ratio: float = 1e-3,
) -> float:
    """`base`, times `factor` for each of `drops` (in iterations) that lies behind; denseclip section 5.

    The same warm-up as `poly_lr`. iteration: optimizer steps already made.
    """
    passed = sum(iteration >= drop for drop in drops)
    return base * factor**passed * _warm(iteration, warmup, warmup_ratio)


def _warm(iteration: int, warmup: int, ratio: float) -> float:
    return 1 - (1 - iteration / warmup) * (1 - ratio) if iteration < warmup else 1.0
