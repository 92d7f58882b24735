"""`denseclip distill`: a folder of pictures and words, a model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from denseclip.cli import options as o
from denseclip.errors import UserError

Images = Annotated[Path, typer.Argument(help="Folder of pictures, searched in depth.", show_default=False)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")]
Teacher = Annotated[
    str, typer.Option("--model", "-m", help="The CLIP that teaches: tiny-rn, RN50, ViT-B-16, a path, ...")
]
Steps = Annotated[int | None, typer.Option(min=1, help="Optimizer steps; default by machine.")]
FromScratch = Annotated[
    bool, typer.Option("--from-scratch", help="A student without ImageNet weights, which need a hub.")
]
Set = Annotated[
    list[str] | None, typer.Option("--set", help="key=value of the recipe, such as batch=4; may be repeated.")
]


def distill(
    images: Images,
    classes: o.Classes = None,
    out: Out = Path("runs/distill"),
    model: Teacher = "tiny-rn",
    preset: o.Preset = "auto",
    refine: o.Refine = None,
    background: o.BackgroundWords = "auto",
    steps: Steps = None,
    from_scratch: FromScratch = False,
    change: Set = None,
    device: o.Device = "auto",
) -> Any:  # noqa: ANN401 - typer cannot read a type that is imported later
    """Train a small, fast model for your words on your pictures, without any labels.

    Given again after an interruption it goes on. Ends with a checkpoint, report.md, and the command to use it.
    """
    if classes is None:
        raise UserError('no words are given; add --classes "cat, sofa, grass"')
    from denseclip.cli.train import run
    from denseclip.data.images import unread_in, unread_line
    from denseclip.train.distill import distill_recipe, without_hub, write_report
    from denseclip.train.recipe import parse_changes

    teacher: dict[str, Any] = {"model": model, "preset": preset, "refine": refine, "ks_norm": "channels"}
    teacher["background"] = background
    changes = parse_changes([*(change or []), *([f"steps={steps}"] if steps else [])])
    recipe = distill_recipe(images, classes, teacher, from_scratch=from_scratch, changes=changes)
    recipe, why = without_hub(recipe, out)
    if why:
        o.say(why)
    outcome = run(recipe, out, root=None, device=device)
    unread = unread_in([images])
    report = write_report(
        recipe, outcome.checkpoint, (*outcome.skipped, *filter(None, [unread_line(unread)]))
    )
    o.tell_unread(unread)
    o.say(f"report: {report}")
    return outcome
