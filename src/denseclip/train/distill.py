"""From a folder of pictures and words to a trained model: defaults, and a report to look at."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from denseclip.clip import load_clip
from denseclip.clip.model import ResNet
from denseclip.clip.pretrained import EMBEDDED
from denseclip.data.specs import DatasetSpec
from denseclip.data.transforms import ResizeRule, resize_image
from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from denseclip.loading import load, set_dataset_classes
from denseclip.models.backbones import at_hand
from denseclip.segment import paint
from denseclip.segment.result import Segmentation
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import AUTO, NONE, has_background
from denseclip.text import ClassPrompts
from denseclip.train.recipe import CLIP_START, TrainRecipe, laid_over, make_recipe
from denseclip.train.run import RECIPE, open_training_data

SHOWN = 8  # pictures in the report
WIDTH = 360  # of a picture in it, in pixels


def distill_recipe(
    folder: Path, classes: str, teacher: dict[str, Any], *, from_scratch: bool, changes: dict[str, Any]
) -> TrainRecipe:
    """The recipe of `denseclip distill`: no annotation is read, every pixel gets the teacher's label.

    The size of everything follows the machine: with a GPU a ResNet-50 on crops of 512, without one a ResNet-18 on
    crops of 224 pixels. teacher: keys of `TeacherPart`. changes: other keys of the recipe, as nested dicts.
    Raises UserError for what cannot be used.
    """
    preset = teacher.get("preset", AUTO)
    if preset == AUTO:
        preset = load_clip(teacher["model"]).recommended.get("preset", "maskclip")
    background = teacher.get("background", AUTO)
    own = has_background(ClassPrompts.parse(classes))
    background = None if background in (None, NONE) or (own and background == AUTO) else background
    gpu = torch.cuda.is_available()
    backbone = "timm:resnet50" if gpu else "timm:resnet18"
    content: dict[str, Any] = {
        "title": f"annotation-free student for {folder.resolve().name}",
        "steps": 4000 if gpu else 600,
        "batch": 16 if gpu else 8,
        "save_every": 100,
        "panel_every": 200,
        "probe_every": 100,
        "data": {"train": str(folder.resolve()), "classes": classes, "background": background is not None},
        "augment": {
            "resize": "short:512" if gpu else "short:320",
            "crop": [512, 512] if gpu else [224, 224],
        },
        "student": {
            "backbone": backbone,
            "pretrained": not from_scratch,
            "background": background is not None,
        },
        "teacher": {"official": False, **teacher, "preset": preset, "background": background},
        "labels": {"hide": "all", "ignore_mask": "none", "average": "valid"},
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
    """Teacher and student on one picture; agreement: share of pixels with the same class."""

    name: str
    teacher: Segmentation
    student: Segmentation

    @property
    def agreement(self) -> float:
        """In 0..1."""
        return float((self.teacher.mask == self.student.mask).mean())


def write_report(recipe: TrainRecipe, checkpoint: Path, skipped: tuple[str, ...]) -> Path:
    """Write report.md with pictures beside a checkpoint: image, teacher, student. Returns its path."""
    folder = checkpoint.parent
    dataset = open_training_data(recipe.data, None)
    rule = recipe.augment.build(dataset.spec.resize).resize
    student = load(checkpoint, resize=rule)
    teacher = _teacher(recipe, dataset.spec, rule)
    every = max(1, len(dataset) // SHOWN)
    compared = []
    for entry in dataset.entries[::every][:SHOWN]:
        try:
            image = resize_image(entry.read(dataset.spec).image, rule)  # masks of what the networks see
        except UserError:
            continue
        compared.append(Comparison(entry.image_id, teacher.segment(image), student.segment(image)))
    for number, one in enumerate(compared):
        with atomic_path(folder / "report" / f"{number}.png") as temporary:
            _beside(one).save(temporary)
    write_text(folder / "report.md", _text(recipe, checkpoint, compared, skipped))
    return folder / "report.md"


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


def _text(recipe: TrainRecipe, checkpoint: Path, compared: list[Comparison], skipped: tuple[str, ...]) -> str:
    areas: Counter[str] = Counter()
    for one in compared:
        areas.update(one.student.areas)
    total = max(1, sum(areas.values()))
    agreement = float(np.mean([one.agreement for one in compared])) if compared else 0.0
    lines = [
        f"# {recipe.title}",
        "",
        f"{recipe.steps} steps of {recipe.batch} crops, teacher {recipe.teacher.model} ({recipe.teacher.preset}), "
        f"student {recipe.student.backbone} with {recipe.student.head}. No annotation was read, so no accuracy is "
        f"known; student and teacher give {agreement:.0%} of the pixels below the same class.",
        "",
        "Use it:",
        "",
        f"    denseclip segment PICTURES --model {checkpoint}",
        "",
        "| class | share of the pixels below |",
        "|---|---:|",
        *(f"| {name} | {count / total:.1%} |" for name, count in areas.most_common()),
        "",
        "Image, teacher, student:",
        "",
        *(f"![{one.name}](report/{i}.png)" for i, one in enumerate(compared)),
    ]
    if skipped:
        lines += ["", "Skipped:", "", *(f"- {line}" for line in skipped)]
    return "\n".join(lines) + "\n"
