"""Train an embedded tiny CLIP, on a GPU if there is one.

    python -m tools.train_tiny tiny-rn --run runs/tiny-rn
    python -m tools.train_tiny tiny-vit --run runs/tiny-vit --teacher runs/tiny-rn --minutes 15 --workers 14

The same command goes on after an interruption. The finished weights are written to RUN/model.safetensors (fp16) and
RUN/config.json; `--model RUN` loads them. Copy both to src/denseclip/assets/NAME to embed them, and write their card.
"""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from denseclip.clip import load_clip
from denseclip.clip.clip import OPENAI_STATS
from denseclip.clip.device import pick_device, pick_precision
from denseclip.clip.towers import ResNet
from denseclip.errors import UserError
from denseclip.io import atomic_path, write_text
from tools.train_tiny.recipes import RECIPES, TEXT, TinyRecipe
from tools.train_tiny.trainee import Teacher
from tools.train_tiny.training import Run, fitted, train


def export(model: nn.Module, recipe: TinyRecipe, folder: Path) -> None:
    """Write the weights as fp16 safetensors with open_clip's names, and their config."""
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).contiguous().cpu()
        for name, tensor in model.state_dict().items()
    }
    with atomic_path(folder / "model.safetensors") as temporary:
        save_file(state, temporary)
    stats = {"mean": list(OPENAI_STATS.mean), "std": list(OPENAI_STATS.std)}
    config = {"model_cfg": recipe.config, "preprocess_cfg": stats}
    write_text(folder / "config.json", json.dumps(config, indent=1) + "\n")


def planned(options: argparse.Namespace) -> Run:
    """A run by the recipe of its first start, which RUN/plan.json keeps, as batches depend on it.

    Raises UserError if this start asks for something else.
    """
    recipe, path, teacher = RECIPES[options.name], options.run / "plan.json", None
    device = pick_device(options.device)
    if recipe.taught:
        clip = load_clip(options.teacher, device=device)
        if not isinstance(clip.visual, ResNet) or clip.text.width != TEXT["width"]:
            raise UserError(
                f"--teacher {options.teacher} is no tiny-rn; give that, or the folder of a run of it"
            )
        teacher = Teacher(clip)
    if options.batch:
        recipe = replace(recipe, stages=tuple(replace(s, batch=options.batch) for s in recipe.stages))
    bf16 = pick_precision(options.precision, device).name == "bf16"
    begin = partial(Run, teacher=teacher, device=device, bf16=bf16)
    asked: dict[str, Any] = {key: getattr(options, key) for key in ("name", "batch", "minutes", "precision")}
    asked["teacher"] = teacher.clip.fingerprint if teacher else None
    if not path.exists():
        recipe = fitted(begin(recipe), options.minutes, options.workers) if options.minutes else recipe
        write_text(path, json.dumps(asked | {"steps": [stage.steps for stage in recipe.stages]}) + "\n")
    plan = json.loads(path.read_text(encoding="utf-8"))
    steps = plan.pop("steps")
    if plan != asked:
        begun = ", ".join(f"{name} {value}" for name, value in plan.items() if value)
        raise UserError(f"{options.run} was begun with {begun}; give the same, or another --run")
    return begin(replace(recipe, stages=tuple(map(lambda s, n: replace(s, steps=n), recipe.stages, steps))))


def main(arguments: list[str] | None = None) -> None:
    """Train, then export."""
    parser = argparse.ArgumentParser(
        prog="tools.train_tiny", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--run", type=Path, required=True, help="folder of the checkpoint and the result")
    parser.add_argument("--minutes", type=float, help="shorten or lengthen all stages to about this time")
    parser.add_argument("--batch", type=int, help="pictures of a step; default: the recipe's")
    parser.add_argument("--teacher", default="tiny-rn", help="what teaches tiny-vit, as a name or a folder")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "fp32"])
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    options = parser.parse_args(arguments)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
    try:
        run = planned(options)
    except UserError as error:
        parser.error(str(error))
    export(train(run, options.run, workers=options.workers), run.recipe, options.run)
    print(f"written to {options.run}")


if __name__ == "__main__":
    main()
