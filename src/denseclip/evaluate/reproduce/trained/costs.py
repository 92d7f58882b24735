"""What the models of a table cost, beside what was published."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from denseclip.evaluate.flops_models import PUBLISHED, cost_of
from denseclip.evaluate.reproduce.markdown import table_lines


@cache
def costs(names: tuple[str, ...]) -> tuple[dict[str, Any], ...]:
    """GMACs and million parameters of each model for one picture, without the text encoder; no weights are needed."""
    found = []
    for name in names:
        cost, row = cost_of(name), PUBLISHED[name]
        figures = cost.to_dict()
        found.append(
            {
                "model": name,
                "size": f"{cost.size[0]}x{cost.size[1]}",
                "gmacs": round(figures["gmacs_without_text"], 1),
                "gmacs published": row.gmacs,
                "params_M": round(figures["params_without_text"] / 1e6, 2),
                "params_M published": row.params,
                "why": row.explain(cost),
            }
        )
    return tuple(found)


def cost_section(names: Sequence[str]) -> Iterator[str]:
    """A section of the page; nothing without names."""
    if not names:
        return
    yield from ("", "## Cost of the published models", "", "One picture, without the text encoder.", "")
    rows = costs(tuple(names))
    header = ["model", "size", "GMACs", "published", "M parameters", "published"]
    keys = ("model", "size", "gmacs", "gmacs published", "params_M", "params_M published")
    yield from table_lines(header, [[str(row[key]) for key in keys] for row in rows], names=2)
    yield from (f"\n{row['model']}: {row['why']}." for row in rows if row["why"])
