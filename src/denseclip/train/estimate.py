"""What a training costs: parameters, memory, time, and what limits it."""

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from denseclip.data.transforms import ResizeRule
from denseclip.detection.config import Instances
from denseclip.train.batches import DIVISOR, Batch, EndlessBatches, ThingsBatch
from denseclip.train.recipe import TrainRecipe
from denseclip.train.task import Task

STATES = {"sgd": 1, "adamw": 2}  # tensors that the optimizer keeps for each weight


@dataclass(frozen=True)
class Estimate:
    """parameters: trained ones. memory: bytes of weights, gradients, optimizer and what the backward pass keeps, for
    a teacher add its weights. seconds: of the whole training on this machine, reading of images not counted. rate:
    images a second of that.
    """

    parameters: int
    memory: int
    seconds: float
    rate: float


def reading_rate(batches: EndlessBatches[Any], images: int) -> float:
    """Images a second that one process reads and augments, over a batch of so many."""
    batches.batch(0)  # files are opened, caches are warm
    begun = time.perf_counter()
    batches.batch(1)
    return images / (time.perf_counter() - begun)


def estimate(task: Task, recipe: TrainRecipe, device: torch.device) -> Estimate:
    """Measure one forward and backward pass of two crops, and scale it. The task's weights stay as they are."""
    batch = (_two_scenes(recipe) if recipe.system == "detection" else _two_crops(recipe)).to(device)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    buffers = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    weights = {parameter.untyped_storage().data_ptr() for parameter in task.parameters()}
    task.train()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = task(batch, 1)["loss"]
    loss.backward()  # the first pass warms up
    _wait(device)
    begun = time.perf_counter()
    task(batch, 1)["loss"].backward()
    _wait(device)
    seconds = time.perf_counter() - begun
    task.zero_grad(set_to_none=True)
    task.load_state_dict(buffers)
    trained = [parameter for parameter in task.parameters() if parameter.requires_grad]
    count = sum(parameter.numel() for parameter in trained)
    everything = sum(tensor.nbytes for tensor in buffers.values())
    activations = sum(size for place, size in kept.items() if place not in weights)
    micro = recipe.batch // recipe.accumulate
    return Estimate(
        parameters=count,
        memory=everything + 4 * count * (1 + STATES[recipe.optimizer.name]) + activations * micro // 2,
        seconds=seconds / 2 * recipe.batch * recipe.steps,
        rate=2 / seconds,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _two_crops(recipe: TrainRecipe) -> Batch:
    height, width = recipe.augment.crop
    return Batch(
        images=_noise(height, width),
        extent=torch.tensor([[height, width]] * 2),
        labels=torch.zeros(2, height, width, dtype=torch.int64),
        index=torch.zeros(2, dtype=torch.int64),
        geometry=torch.tensor([[height, width, 0, 0, 0]] * 2),
    )


def _two_scenes(recipe: TrainRecipe) -> ThingsBatch:
    """With two things each; without a crop, of a picture of 4 : 3."""
    part = recipe.detection
    height, width = part.crop or ResizeRule.parse(part.resize).target(480, 640)
    height, width = (-(-side // DIVISOR) * DIVISOR for side in (height, width))
    boxes = torch.tensor([[0.1, 0.1, 0.4, 0.6], [0.3, 0.2, 0.9, 0.9]]) * torch.tensor([width, height] * 2)
    things = Instances(
        boxes, torch.zeros(2, dtype=torch.int64), torch.ones(2, height, width, dtype=torch.uint8)
    )
    return ThingsBatch(_noise(height, width), torch.tensor([[height, width]] * 2), (things, things))


def _noise(height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (2, 3, height, width), dtype=torch.uint8, generator=generator)
