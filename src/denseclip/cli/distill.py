"""`denseclip distill`: a folder of pictures and words, a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.train.run import Outcome

Images = Annotated[Path, typer.Argument(help="Folder of pictures, searched in depth.", show_default=False)]


@o.command(
    *(
        "classes",
        "out",
        "model",
        "preset",
        "refine",
        "background",
        "steps",
        "from_scratch",
        "set",
        "time_limit",
        "device",
    )
)
def distill(pictures: Images, **options: Unpack[o.Options]) -> "o.Done[Outcome]":
    """Train a small, fast model for your words on your pictures, without any labels.

    Given again after an interruption it goes on. Ends with a checkpoint, report.md, and the command to use it.
    """
    given = o.values(options)
    classes, out, model = given["classes"], given["out"] or Path("runs/distill"), given["model"]
    if classes is None:
        raise UserError('no words are given; add --classes "cat, sofa, grass"')
    from denseclip.cli.train import figures_of, run
    from denseclip.data.images import unread_in, unread_line
    from denseclip.train.distill import distill_recipe, without_hub, write_report
    from denseclip.train.recipe import parse_changes

    teacher = {
        "model": model,
        "preset": given["preset"],
        "refine": options.get("refine"),
        "ks_norm": "channels",
        "background": given["background"],
    }
    changes = parse_changes([*(given["set"] or []), *([f"steps={given['steps']}"] if given["steps"] else [])])
    recipe = distill_recipe(pictures, classes, teacher, from_scratch=given["from_scratch"], changes=changes)
    recipe, why = without_hub(recipe, out)
    if why:
        o.say(why)
    outcome = run(recipe, out, root=None, device=given["device"], minutes=given["time_limit"])
    unread = unread_in([pictures])
    report = write_report(
        recipe, outcome.checkpoint, (*outcome.skipped, *filter(None, [unread_line(unread)]))
    )
    o.tell_unread(unread)
    o.say(f"report: {report}")
    return o.Done(outcome, [outcome.checkpoint, report], figures=figures_of(outcome))
