"""How long a table takes here and how much memory, foretold from what its networks compute; nothing is loaded.

Multiply-accumulates are counted on networks without values, a backward pass is twice its forward pass, and this
machine's pace is that of a convolution measured on it. What is read from disks is not counted.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from denseclip.clip.device import processor
from denseclip.data.open_things import COCO
from denseclip.data.published import dataset_spec, is_dataset
from denseclip.data.transforms import ResizeRule
from denseclip.detection.config import DetectorConfig, guidance_config
from denseclip.evaluate.costs import (
    Size,
    Subject,
    clip_on_meta,
    cost_of,
    count,
    subject_of_denseclip,
    subject_of_detector,
)
from denseclip.evaluate.run import protocol_settings
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import shapes_for
from denseclip.models.student import StudentConfig, build_student
from denseclip.reproduce.runs import Run
from denseclip.text import ClassEmbeddings
from denseclip.text.prompts import coco_things
from denseclip.train.estimate import STATES
from denseclip.train.recipe import TrainRecipe

NETWORKS = 0.5  # of a convolution's pace, which whole networks reach
USUAL = (375, 500)  # pixels of a picture, where a data set's own are of many sizes
PICTURES = {"cityscapes": (1024, 2048), COCO: (480, 640), "coco-stuff": (480, 640), "ade20k": (512, 683)}


@dataclass(frozen=True)
class Forecast:
    """Of one run, in one process of several. training, evaluation: seconds. memory: bytes while training."""

    training: float
    evaluation: float
    memory: float


def forecast(run: Run, pace: float, processes: int = 1, limit: int | None = None) -> Forecast:
    """What a run takes. pace: multiply-accumulates a second of a process, see `measured_pace`. limit: only the first
    images are evaluated.
    """
    recipe = run.recipe
    picture = _evaluation_macs(run)
    images = limit or run.images or _images(run.data)
    if recipe is None or run.seed is None:
        return Forecast(0.0, images * picture / pace, 0.0)
    size = _training_size(recipe)
    macs, words, weights, kept = _measured(run.training.model_dump_json(), run.data, size)
    teacher = _clip_macs(recipe.teacher.model, size) if recipe.teacher_needed else 0
    parts = recipe.parts(processes)
    micro = ceil(recipe.batch / parts / processes)
    passes = recipe.batch / processes * (3 * macs + teacher) + parts * 3 * words
    training = recipe.steps * passes / pace
    states = 4 * weights * (2 + STATES[recipe.optimizer.name])
    return Forecast(training, images * picture / pace, states + micro * kept)


@cache
def _measured(recipe: str, data: str, size: Size) -> tuple[int, int, int, float]:
    """Of a recipe in JSON: multiply-accumulates of a picture and of the words, weights, and bytes that a picture's
    backward pass needs.
    """
    subject = network(TrainRecipe.model_validate_json(recipe), data)
    cost = count(subject, size)
    return cost.macs - cost.text_macs, cost.text_macs, cost.params, activations(subject, size)


@cache
def _clip_macs(model: str, size: Size) -> int:
    cost = cost_of(model, size)
    return cost.macs - cost.text_macs


def network(recipe: TrainRecipe, data: str) -> Subject:
    """What a recipe trains, without values."""
    names = coco_things() if data == COCO else dataset_spec(data).classes
    if recipe.system == "maskclip+":
        part = recipe.student
        names = names[1:] if part.background else names
        clip = clip_on_meta(recipe.clips[0])
        config = StudentConfig(
            dim=clip.embed_dim,
            backbone="clip" if part.from_clip else part.backbone,
            head=part.head,
            output_stride=part.output_stride,
            background=part.background,
        )
        tower = clip_on_meta(recipe.clips[-1]).visual if part.from_clip else None
        with torch.device("meta"):
            words = ClassEmbeddings(
                torch.empty(len(names), clip.embed_dim), torch.arange(len(names)), tuple(names)
            )
            student = build_student(config, words, tower=tower)  # type: ignore[arg-type]
        student.eval()
        return Subject(student, lambda images: _enlarged(student, images))
    clip = clip_on_meta(recipe.denseclip.clip)
    if recipe.system == "denseclip":
        settings = DenseClipConfig.from_dict(recipe.denseclip.config)
        return subject_of_denseclip(settings, shapes_for(settings, clip), tuple(names))
    settings = guidance_config(recipe.denseclip.config)
    detector = DetectorConfig.from_dict(recipe.detection.config)
    return subject_of_detector(settings, detector, shapes_for(settings, clip), tuple(names))


def _enlarged(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    size = (images.shape[2], images.shape[3])
    return nn.functional.interpolate(net(images), size, mode="bilinear")


def activations(subject: Subject, size: Size) -> float:
    """Bytes in float32 that one picture (H, W) leaves for the backward pass, the loss's two maps with them."""
    kept: dict[int, int] = {}
    alive = []  # a tensor's place is used again when it is gone

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    weights = {parameter.untyped_storage()._cdata for parameter in subject.net.parameters()}
    subject.net.requires_grad_(True).train()
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        out = subject.run(torch.zeros(2, 3, *size, device="meta"))
    subject.net.eval()
    maps = 2 * out.nbytes if isinstance(out, torch.Tensor) else 0
    return (sum(size for place, size in kept.items() if place not in weights) + maps) / 2


def _training_size(recipe: TrainRecipe) -> Size:
    if recipe.system != "detection":
        return recipe.augment.crop
    whole = ResizeRule.parse(recipe.detection.resize).target(*PICTURES[COCO])
    height, width = recipe.detection.crop or whole
    return ceil(height / 32) * 32, ceil(width / 32) * 32


def _evaluation_macs(run: Run) -> float:
    """Of one picture, with all its windows, scales and mirrors."""
    settings, recipe = run.settings, run.recipe
    if run.data != COCO:
        settings = protocol_settings(run.protocol, dataset_spec(run.data), **settings)
    rule = settings.get("resize")
    if recipe and recipe.system == "detection":
        rule = recipe.detection.resize
    rule = ResizeRule.parse(rule) if isinstance(rule, str) else rule
    picture = PICTURES.get(run.data, USUAL)
    height, width = rule.target(*picture) if rule is not None else picture
    window = str(settings.get("slide") or "none")
    total = 0.0
    for scale in settings.get("scales", (1.0,)):
        size = round(height * scale), round(width * scale)
        times = 2 if settings.get("flip") else 1
        if window != "none":
            crop, stride = map(int, window.split("/"))
            times *= max(1, ceil((size[0] - crop) / stride) + 1) * max(1, ceil((size[1] - crop) / stride) + 1)
            size = min(crop, size[0]), min(crop, size[1])
        total += times * _macs_of(run, (ceil(size[0] / 32) * 32, ceil(size[1] / 32) * 32))
    return total


def _macs_of(run: Run, size: Size) -> float:
    if run.recipe is None or run.seed is None:
        return _clip_macs(run.source, size)
    return _measured(run.training.model_dump_json(), run.data, size)[0]


def _images(data: str) -> int:
    """How many are evaluated."""
    if data == COCO:
        return 5_000
    spec = dataset_spec(data)
    return sum(part.size or 0 for part in spec.splits[spec.default_split])


def measured_pace(device: torch.device) -> float:
    """Multiply-accumulates a second that networks reach on this device: of a 3 x 3 convolution, measured, halved."""
    batch, side = (64, 64) if device.type == "cuda" else (2, 32)
    x = torch.zeros(batch, 256, side, side, device=device)
    conv = nn.Conv2d(256, 256, 3, padding=1, device=device)
    seconds = []
    with torch.no_grad():
        for _ in range(4):  # the first one warms up
            begun = time.perf_counter()
            conv(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - begun)
    return NETWORKS * batch * side * side * 256 * 256 * 9 / min(seconds[1:])


def foretold(
    runs: Sequence[Run], device: torch.device, processes: int = 1, limit: int | None = None
) -> list[str]:
    """A line for each row that is to be made, and one for all of them; trainings that rows share count once."""
    pace = measured_pace(device)
    lines, total, most, trained = [], 0.0, 0.0, set()
    for run in runs:
        if run.data != COCO and not is_dataset(run.data):
            continue  # whose pictures and classes are not known before they are read
        one = forecast(run, pace, processes, limit)
        training = 0.0
        if run.recipe is not None and run.seed is not None:
            key = run.training.model_dump_json()
            training, most = (0.0 if key in trained else one.training), max(most, one.memory)
            trained.add(key)
        total += training + one.evaluation / processes
        if run.recipe is not None and not run.seed:  # further seeds take as long
            parts = [f"{_hours(training)} of training, {one.memory / 2**30:.1f} GiB"] if training else []
            lines.append(
                f"{run.title}: about {', '.join([*parts, f'{_hours(one.evaluation)} of evaluation'])}"
            )
    where = f"{processes} x {processor(device)}" if processes > 1 else processor(device)
    memory = f", {most / 2**30:.1f} GiB of memory in each process" if most else ""
    return [*lines, f"in all about {_hours(total)} on {where}{memory}, in fp32; pictures are read beside it"]


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
