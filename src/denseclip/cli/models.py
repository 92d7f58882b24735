"""`denseclip models`: what can be used, what is on this machine, and how large it is."""

from typing import TYPE_CHECKING, Unpack

from rich.table import Table

from denseclip.cli import options as o

if TYPE_CHECKING:
    from denseclip.clip.pretrained import CatalogRow


@o.command("all", "local")
def models(**options: Unpack[o.Options]) -> o.Done[list[str]]:
    """List the models that can be used, and which of them are on this machine."""
    from denseclip.clip.pretrained import catalog, not_supported

    everything, local = options.get("all", False), options.get("local", False)
    rows = catalog()
    shown = [row for row in rows if _wanted(row, everything, local)]
    table = Table(title="models that --model takes (a path to a CLIP file or folder works too)")
    for column in ("model", "tower", "cell", "px", "embedding", "parameters", "on this machine"):
        table.add_column(column, justify="left" if column in ("model", "tower") else "right", overflow="fold")
    for row in shown:
        table.add_row(
            row.model,
            row.tower,
            str(row.cell),
            str(row.image_size),
            str(row.embed_dim),
            f"{row.parameters / 1e6:.1f} M",
            "no" if row.local_bytes is None else f"{row.local_bytes / 2**20:.0f} MiB",
        )
    o.console.print(table)
    hidden = len(rows) - len(shown)
    if hidden and not local:
        o.say(f"{hidden} more with --all.")
    for reason, names in not_supported().items() if everything and not local else ():
        o.say(f"not supported ({reason}): {', '.join(names)}")
    names = [row.model for row in shown]
    sizes = {row.model: row.local_bytes for row in shown}
    return o.Done(names, figures={"models": names, "bytes_on_this_machine": sizes})


def _wanted(row: "CatalogRow", everything: bool, local: bool) -> bool:
    if local:
        return row.local is not None
    return everything or row.origin in ("embedded", "openai") or row.local is not None
