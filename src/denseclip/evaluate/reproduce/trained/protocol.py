"""What was trained how, in a few lines above a table."""

from collections.abc import Iterable, Sequence

from denseclip.evaluate.reproduce.trained.report import TrainedLine
from denseclip.train.recipe import TrainRecipe


def training_protocol(lines: Sequence[TrainedLine]) -> dict[str, str]:
    """Teachers, which pixels are ignored, steps and seeds, for all trained rows together."""
    trained = [line for line in lines if not line.row.teacher]
    recipes = [line.recipe for line in trained]
    masks = [recipe.labels.ignore_mask for recipe in recipes if recipe.teacher_needed]
    steps = [f"{r.steps} x {r.batch} {_views(r)} from {r.data.images or 'all'} images" for r in recipes]
    seeds = (f"{line.planned} ({line.row.name}, {line.data}; made: {len(line.made)})" for line in trained)
    found = {
        "teacher": _each(line.teacher for line in lines),
        "ignored pixels": _each(f"as in the {mask}" if mask != "none" else "none" for mask in masks),
        "training": _each(steps),
        "seeds": _each(seeds),
    }
    return {key: text for key, text in found.items() if text}


def _views(recipe: TrainRecipe) -> str:
    """What a training looks at."""
    detection = recipe.system == "detection"
    crop = recipe.detection.crop if detection else recipe.augment.crop
    return f"crops of {crop[0]} x {crop[1]} px" if crop else f"pictures ({recipe.detection.resize})"


def _each(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
