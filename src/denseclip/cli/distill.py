"""`denseclip distill`: a folder of pictures and words, a model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Unpack

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.cli.export import export
from denseclip.errors import UserError, need

if TYPE_CHECKING:
    from denseclip.train.training import Outcome

Images = Annotated[
    Path,
    typer.Argument(
        help="Folder of pictures, searched in depth; or a data.json of corrected labels.",
        show_default=False,
    ),
]


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

    Given again after an interruption it goes on. Every tenth picture is kept out of the training. Ends in
    runs/distill, unless --out says otherwise, with a checkpoint, report.md, which compares teacher and student on
    those, the ONNX file, and a script that runs it. Of a data.json (masks or COCO) the labels are learned instead.
    """
    given = o.values(options)
    classes, out, model = given["classes"], given["out"] or Path("runs/distill"), given["model"]
    labeled = pictures.suffix == ".json" or (pictures / "data.json").is_file()
    if labeled and classes is not None:
        raise UserError(f"{pictures} says its classes itself; leave out --classes")
    if classes is None and not labeled:
        raise UserError('no words are given; add --classes "cat, sofa, grass"')
    from denseclip.cli.train import figures_of, run
    from denseclip.data.images import unread_in, unread_line
    from denseclip.outputs import is_output
    from denseclip.train.distillation import SCRIPT_NAME, distill_recipe, without_hub, write_report
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
    unread = {} if labeled else unread_in([pictures])
    report = write_report(
        recipe, outcome.checkpoint, (*outcome.skipped, *filter(None, [unread_line(unread)]))
    )
    o.tell_unread(unread)
    table = Table(title=f"teacher {model} and student")
    for heading in ("", "teacher", "student"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in report.rows():
        table.add_row(*row)
    o.console.print(table)
    files = [outcome.checkpoint, report.path, report.path.parent / SCRIPT_NAME]
    try:
        need("onnxscript", "the ONNX file")
        exported = report.path.with_name("model.onnx")
        if is_output(exported):
            exported.unlink()
        files += export.run({"model": str(outcome.checkpoint), "out": exported}).files
    except UserError as error:
        o.say(str(error))
    o.say(f"report: {report.path}; where there is no torch: python {files[2]} MODEL.onnx PICTURE")
    figures = figures_of(outcome) | {"agreement": report.agreement, "held_out": report.held_out}
    return o.Done(outcome, files, figures=figures)
