"""From a folder of pictures and words to a trained model: defaults, and a report to look at."""

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from denseclip.clip import Clip, load_clip
from denseclip.clip.pretrained import EMBEDDED
from denseclip.clip.towers import ResNet
from denseclip.data.datasets import DatasetSpec
from denseclip.data.transforms import ResizeRule, resize_image
from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from denseclip.loading import load, set_dataset_classes
from denseclip.models.backbones import at_hand
from denseclip.models.trained import TrainedModel
from denseclip.segment import paint
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import AUTO, NONE, has_background
from denseclip.text import ClassPrompts
from denseclip.train.recipe import CLIP_START, TrainRecipe, laid_over, make_recipe
from denseclip.train.training import RECIPE, open_training_data

SHOWN = 8  # pictures in the report
COMPARED = 50  # pictures at most, for its figures
HOLDOUT = 10  # every tenth picture is not trained on
WIDTH = 360  # of a picture in it, in pixels
SCRIPT_NAME = "segment_onnx.py"
SCRIPT = '''"""Masks of an exported model, without torch: python segment_onnx.py MODEL.onnx PICTURE [MASK.png]"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1])
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
picture = Image.open(sys.argv[2]).convert("RGB")
small = picture.copy()
small.thumbnail((LARGEST, LARGEST))  # about the size that it was trained on
pixels = np.asarray(small, np.float32).transpose(2, 0, 1)[None]
(mask,) = session.run(None, {"image": pixels})
print({name: f"{(mask == i).mean():.1%}" for i, name in enumerate(classes)})
out = Image.fromarray(mask[0].astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
out.save(sys.argv[3] if len(sys.argv) > 3 else "mask.png")
'''


def distill_recipe(
    source: Path, classes: str | None, teacher: dict[str, Any], *, from_scratch: bool, changes: dict[str, Any]
) -> TrainRecipe:
    """The recipe of `denseclip distill`: no annotation is read, every pixel gets the teacher's label.

    source: a folder of pictures; or, with no classes, a data.json of one's own, whose labels are learned instead.

    The size of everything follows the machine: with a GPU a ResNet-50 on crops of 512, without one a ResNet-18 at
    stride 16 on crops of 160 pixels, for 300 steps: minutes on two cores. teacher: keys of `TeacherPart`. changes:
    other keys of the recipe, as nested dicts.
    Raises UserError for what cannot be used.
    """
    preset = teacher.get("preset", AUTO)
    if preset == AUTO:
        preset = load_clip(teacher["model"]).recommended.get("preset", "maskclip")
    background = teacher.get("background", AUTO)
    own = classes is None or has_background(ClassPrompts.parse(classes))
    background = None if background in (None, NONE) or (own and background == AUTO) else background
    data: dict[str, Any] = {"train": str(source.resolve()), "holdout": HOLDOUT}
    labels: dict[str, Any] = {"hide": "none", "average": "valid"}
    if classes is not None:
        data |= {"classes": classes, "background": background is not None}
        labels |= {"hide": "all", "ignore_mask": "none"}
    gpu = torch.cuda.is_available()
    backbone = "timm:resnet50" if gpu else "timm:resnet18"
    content: dict[str, Any] = {
        "title": f"student for {source.resolve().name}",
        "steps": 4000 if gpu else 300,
        "batch": 16 if gpu else 8,
        "save_every": 100,
        "panel_every": 200,
        "probe_every": 100,
        "data": data,
        "augment": {
            "resize": "short:512" if gpu else "short:320",
            "crop": [512, 512] if gpu else [160, 160],
        },
        "student": {
            "backbone": backbone,
            "pretrained": not from_scratch,
            "background": background is not None,
            **({} if gpu else {"output_stride": 16, "normalize": True, "temperature": 20}),
        },
        **({} if gpu else {"optimizer": {"name": "adamw", "lr": 5e-4, "weight_decay": 1e-2, "warmup": 20}}),
        "teacher": {"official": False, **teacher, "preset": preset, "background": background},
        "labels": labels,
    }
    return make_recipe(laid_over(content, changes))


def without_hub(recipe: TrainRecipe, out: Path) -> tuple[TrainRecipe, str]:
    """The recipe with a start that is at hand, and why it is another; "" where ImageNet's weights can be had.

    Else the student begins with the image tower of its teacher, or of the embedded tiny-rn if that is a ViT. A run
    in `out` goes on with the start that it has.
    """
    student = recipe.student
    if not student.pretrained or student.from_clip:
        return recipe, ""
    begun = out / RECIPE
    kept = json.loads(begun.read_text(encoding="utf-8"))["student"] if begun.is_file() else None
    if kept is None and at_hand(student.backbone):
        return recipe, ""
    if kept is not None and kept["pretrained"]:
        return recipe, ""
    tower = load_clip(recipe.teacher.model).visual
    backbone = "clip" if isinstance(tower, ResNet) else f"{CLIP_START}{EMBEDDED[0]}"
    backbone = backbone if kept is None else kept["backbone"]
    changed = student.model_copy(update={"backbone": backbone, "pretrained": False})
    whose = recipe.teacher.model if backbone == "clip" else backbone.removeprefix(CLIP_START)
    return recipe.model_copy(update={"student": changed}), (
        f"ImageNet's weights are not at hand: the student starts from the image tower of {whose}"
    )


@dataclass(frozen=True)
class Comparison:
    """Teacher and student on one picture; agreement: share of pixels with the same class. seconds: of each."""

    name: str
    teacher: Segmentation
    student: Segmentation
    seconds: tuple[float, float]

    @property
    def agreement(self) -> float:
        """In 0..1."""
        return float((self.teacher.mask == self.student.mask).mean())


@dataclass(frozen=True)
class Report:
    """Of a student. parameters: of the teacher's image tower and of the student. held_out: whether the pictures that
    were compared were kept out of the training.
    """

    path: Path
    compared: tuple[Comparison, ...]
    parameters: tuple[int, int]
    held_out: bool

    @property
    def agreement(self) -> float:
        """Of all pictures together, in 0..1."""
        return float(np.mean([one.agreement for one in self.compared])) if self.compared else 0.0

    def rows(self) -> list[tuple[str, str, str]]:
        """What is compared, of the teacher and of the student."""
        which = "held-out pictures" if self.held_out else "pictures that it was trained on"
        rows = [(f"same class, {len(self.compared)} {which}", "", f"{self.agreement:.1%}")]
        if self.compared:
            slow, fast = np.median([one.seconds for one in self.compared], axis=0).tolist()
            rows.append(("a picture", f"{1000 * slow:.0f} ms", f"{1000 * fast:.0f} ms"))
        large, small = (f"{count / 1e6:.1f} M" for count in self.parameters)
        return [*rows, ("parameters that see the picture", large, small)]


def write_report(recipe: TrainRecipe, checkpoint: Path, skipped: tuple[str, ...]) -> Report:
    """Write report.md beside a checkpoint, with figures of held-out pictures: image, teacher, student."""
    folder = checkpoint.parent
    dataset = open_training_data(recipe.data, None, held_out=True)
    held_out = dataset.entries != open_training_data(recipe.data, None).entries
    rule = recipe.augment.build(dataset.spec.resize).resize
    student, teacher = load(checkpoint, resize=rule), _teacher(recipe, dataset.spec, rule)
    compared = []
    for entry in dataset.entries[:: max(1, len(dataset) // COMPARED)][:COMPARED]:
        try:
            image = resize_image(entry.read(dataset.spec).image, rule)  # masks of what the networks see
        except UserError:
            continue
        begun = time.perf_counter()
        first = teacher.segment(image)
        between = time.perf_counter()
        second = student.segment(image)
        seconds = (between - begun, time.perf_counter() - between)
        compared.append(Comparison(entry.image_id, first, second, seconds))
    for number, one in enumerate(compared[:SHOWN]):
        with atomic_path(folder / "report" / f"{number}.png") as temporary:
            _beside(one).save(temporary)
    networks = cast(Clip, teacher.clip).visual, cast(TrainedModel, student.clip).network(None, ())[0]
    sizes = [sum(one.numel() for one in network.parameters()) for network in networks]
    report = Report(folder / "report.md", tuple(compared), (sizes[0], sizes[1]), held_out)
    side = max((max(one.student.mask.shape) for one in compared), default=512)
    write_text(folder / SCRIPT_NAME, SCRIPT.replace("LARGEST", str(side)))
    write_text(report.path, _text(recipe, checkpoint, report, skipped))
    return report


def _teacher(recipe: TrainRecipe, spec: DatasetSpec, rule: ResizeRule) -> Segmenter:
    part = recipe.teacher
    teacher = load(
        part.model,
        preset=part.preset,
        refine=part.refine,
        ks_norm=part.ks_norm,
        compat="official" if part.official else None,
        resize=rule,
        background=part.background,
    )
    set_dataset_classes(teacher, spec)
    return teacher


def _beside(one: Comparison) -> Image.Image:
    pictures = [Image.fromarray(one.student.image), one.teacher.overlay(), one.student.overlay()]
    titles = ("image", "teacher", "student")
    return Image.fromarray(paint.contact_sheet(pictures, titles, columns=3, side=WIDTH))


def _text(recipe: TrainRecipe, checkpoint: Path, report: Report, skipped: tuple[str, ...]) -> str:
    areas: Counter[str] = Counter()
    for one in report.compared:
        areas.update(one.student.areas)
    total = max(1, sum(areas.values()))
    lines = [
        f"# {recipe.title}",
        "",
        f"{recipe.steps} steps of {recipe.batch} crops, teacher {recipe.teacher.model} ({recipe.teacher.preset}), "
        f"student {recipe.student.backbone} with {recipe.student.head}. "
        + ("Labels were learned." if recipe.labels.hide == "none" else "No annotation was read."),
        "",
        "| | teacher | student |",
        "|---|---:|---:|",
        *(f"| {' | '.join(row)} |" for row in report.rows()),
        "",
        "Use it, here or where there is no torch (it needs onnxruntime):",
        "",
        f"    denseclip segment PICTURES --model {checkpoint}",
        f"    python {checkpoint.parent / SCRIPT_NAME} {checkpoint.parent / 'model.onnx'} PICTURE",
        "",
        "| class | share of the pixels below |",
        "|---|---:|",
        *(f"| {name} | {count / total:.1%} |" for name, count in areas.most_common()),
        "",
        "Image, teacher, student:",
        "",
        *(f"![{one.name}](report/{i}.png)" for i, one in enumerate(report.compared[:SHOWN])),
    ]
    if skipped:
        lines += ["", "Skipped:", "", *(f"- {line}" for line in skipped)]
    return "\n".join(lines) + "\n"
