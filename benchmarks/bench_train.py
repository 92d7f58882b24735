"""A guided step of MaskCLIP+, teacher included, against the plain eager fp32 arithmetic.

RN50-shaped teacher with random weights, DeepLabV2 student; on the CPU ResNet-50 at 256 x 256, batch 4; on a GPU,
where one is at hand, ResNet-101 at 512 x 512, batch 16, and the peak memory of both.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.bench_segment import plain_features, random_rn50
from denseclip.clip.device import pick_precision
from denseclip.models.heads import WideConv2d
from denseclip.train.batches import Batch, Share, TrainingBatches
from denseclip.train.loop import Loop, compile_blocks, make_fabric
from denseclip.train.maskclip_plus import STATS, MaskClipPlus
from denseclip.train.recipe import TrainRecipe, make_recipe
from denseclip.train.tasks import build_task
from denseclip.train.training import open_training_data

ROUNDS = 3


def recipe_for(gpu: bool, teacher: Path) -> TrainRecipe:
    side = 512 if gpu else 256
    return make_recipe(
        {
            "steps": 100,
            "batch": 16 if gpu else 4,
            "save_every": 0,
            "panel_every": 0,
            "probe_every": 0,
            "data": {"train": "stickers20", "images": 16, "side": side},
            "augment": {"crop": [side, side], "ratio": [1, 1]},
            "student": {"backbone": "resnet101" if gpu else "resnet50", "pretrained": False},
            "teacher": {"model": str(teacher)},
            "labels": {"hide": "all", "ignore_mask": "none"},
        }
    )


def save_rn50(model: torch.nn.Module, folder: Path) -> None:
    """The weights, and open_clip's configuration beside them, as the hub has it."""
    import open_clip

    torch.save(model.state_dict(), folder / "rn50.pt")
    settings = {"model_cfg": {**open_clip.get_model_config("RN50"), "quick_gelu": True}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(settings))


class Plain:
    """The same student and teacher, written down plainly: NCHW, fp32, full-size scores."""

    def __init__(self, task: MaskClipPlus, teacher: torch.nn.Module, device: torch.device) -> None:
        self.student = task.model.to(memory_format=torch.contiguous_format)
        for module in self.student.modules():
            if isinstance(module, WideConv2d):
                module.__class__ = torch.nn.Conv2d  # PyTorch's own
        self.words = task.teacher.embeddings.matrix
        self.teacher = teacher.to(device)
        self.optimizer = torch.optim.SGD(self.student.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)

    def step(self, batch: Batch) -> float:
        mean, std = (
            torch.tensor(v, device=batch.images.device).view(1, 3, 1, 1) for v in (STATS.mean, STATS.std)
        )
        images = (batch.images.float() / 255 - mean) / std
        size = images.shape[2:]
        with torch.no_grad():
            scores = torch.einsum("bdhw,kd->bkhw", plain_features(self.teacher, images), self.words)
            labels = F.interpolate(scores, size, mode="bilinear").argmax(1)
        logits = F.interpolate(self.student(images), size, mode="bilinear")
        loss = F.cross_entropy(logits, labels.clone())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return float(loss)


def run() -> dict[str, float]:
    """Ratio of images/s, ours over plain, median of interleaved rounds; on a GPU also of peak memory."""
    gpu = torch.cuda.is_available()
    model = random_rn50()
    with tempfile.TemporaryDirectory() as folder:
        save_rn50(model, Path(folder))
        recipe = recipe_for(gpu, Path(folder) / "rn50.pt")
        kind = torch.device("cuda" if gpu else "cpu")
        precision = pick_precision("auto", kind)
        fabric = make_fabric(precision, device=kind.type)
        dataset = open_training_data(recipe.data, None)
        torch.manual_seed(0)
        loop = Loop(
            build_task(recipe, dataset, fabric.device), recipe, Path(folder) / "run", fabric, precision
        )
        torch.manual_seed(0)
        plain = Plain(build_task(recipe, dataset, fabric.device), model, fabric.device)  # type: ignore[arg-type]
    made = TrainingBatches(
        dataset,
        recipe.augment.build(dataset.spec.resize),
        Share(recipe.batch),
        first=0,
        steps=ROUNDS + 1,
        seed=0,
        everywhere=True,
    )
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    memory = {"plain": 0.0, "ours": 0.0}
    for i in range(ROUNDS + 1):
        batch = made.batch(i).to(fabric.device)
        losses = {}
        for name, way in (("plain", lambda: plain.step(batch)), ("ours", lambda: loop.step([batch])["loss"])):  # noqa: B023
            if gpu:
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            losses[name] = way()
            if gpu:
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            seconds[name].append(time.perf_counter() - start)
        print(f"  loss plain {losses['plain']:.4f}, ours {losses['ours']:.4f}")
    ratio = statistics.median(a / b for a, b in zip(seconds["plain"][1:], seconds["ours"][1:], strict=True))
    print(f"  {recipe.batch / statistics.median(seconds['ours']):.2f} images/s")
    if gpu:
        print(f"  peak memory plain {memory['plain']:.1f}, ours {memory['ours']:.1f} GiB")
        compile_blocks(loop.task)
        start = time.perf_counter()
        loop.step([batch])
        print(f"  compiled in {time.perf_counter() - start:.0f} s")
        compiled = []
        for _ in range(2 * ROUNDS):
            start = time.perf_counter()
            loop.step([batch])
            torch.cuda.synchronize()
            compiled.append(time.perf_counter() - start)
        fast = statistics.median(compiled)
        print(f"  {recipe.batch / fast:.2f} images/s with compile = true")
        return {
            "train_step_speed_gpu": ratio,
            "train_step_speed_gpu_compiled": statistics.median(seconds["plain"][1:]) / fast,
            "train_step_memory_gpu": memory["ours"] / memory["plain"],
        }
    return {"train_step_speed": ratio}


if __name__ == "__main__":
    print(run())
