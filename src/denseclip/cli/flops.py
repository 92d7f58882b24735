"""`denseclip flops`: parameters and multiply-accumulates, beside the published ones."""

from typing import TYPE_CHECKING, Annotated, Any, Unpack

import typer
from rich.table import Table

from denseclip.cli import options as o
from denseclip.errors import UserError

if TYPE_CHECKING:
    from denseclip.evaluate.costs import Cost, Size

ModelName = Annotated[
    str | None,
    typer.Argument(help="denseclip-fpn-rn50, fpn-vit-b, ..., or any CLIP: RN50, tiny-rn, NAME:TAG, a path."),
]


@o.command("size", "per_module", "all")
def flops(model: ModelName = None, /, **options: Unpack[o.Options]) -> o.Done[dict[str, Any]]:
    """Count what one picture costs a model; no weights, data or GPU are needed."""
    from denseclip.evaluate.costs import PUBLISHED, cost_of

    given = o.values(options)
    per_module = given["per_module"]
    if (model is None) != given["all"]:
        raise UserError(f"name one model or give --all; the papers' are {', '.join(PUBLISHED)}")
    pixels = _size(given["size"])
    costs = {name: cost_of(name, pixels) for name in ([model] if model else PUBLISHED)}
    _show(costs, published=pixels is None)
    if per_module:
        for name, cost in costs.items():
            _show_modules(name, cost)
    figures = {name: _plain(cost, per_module) for name, cost in costs.items()}
    return o.Done(figures, figures=figures)


def _size(text: str | None) -> "Size | None":
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isdecimal() and 32 <= int(part) <= 16384 for part in parts):
        raise UserError(
            f"size {text!r} is not understood; write height x width of 32 to 16384, such as 512x683"
        )
    return int(parts[0]), int(parts[1])


def _plain(cost: "Cost", per_module: bool) -> dict[str, object]:
    modules = {name: macs / 1e9 for name, macs in cost.modules.items()}
    return {**cost.to_dict(), **({"modules": modules} if per_module else {})}


def _show(costs: dict[str, "Cost"], *, published: bool) -> None:
    """A table, with the published figures where the size is theirs, and why some differ."""
    from denseclip.evaluate.costs import PUBLISHED

    beside = {name: PUBLISHED[name] for name in costs if published and name in PUBLISHED}
    table = Table(title="one picture; the published figures are without the text encoder")
    for column in (
        "model",
        "size",
        "GMACs",
        "without text",
        "published",
        "M params",
        "without text",
        "published",
    ):
        table.add_column(column, justify="left" if column == "model" else "right", overflow="fold")
    for name, cost in costs.items():
        values, row = cost.to_dict(), beside.get(name)
        table.add_row(
            name,
            f"{cost.size[0]}x{cost.size[1]}",
            f"{values['gmacs']:.1f}",
            f"{values['gmacs_without_text']:.1f}",
            f"{row.gmacs:.1f}" if row else "",
            f"{values['params'] / 1e6:.1f}",
            f"{values['params_without_text'] / 1e6:.1f}",
            f"{row.params:.1f}" if row else "",
        )
    o.console.print(table)
    for name, row in beside.items():
        if row.why:
            o.say(f"{name}: {row.explain(costs[name])}.")


def _show_modules(name: str, cost: "Cost") -> None:
    table = Table(title=f"{name}: GMACs by part")
    table.add_column("part")
    table.add_column("GMACs", justify="right")
    for part, macs in cost.modules.items():
        if macs and part.count(".") < 2:
            table.add_row("  " * part.count(".") + part, f"{macs / 1e9:.3f}")
    o.console.print(table)
