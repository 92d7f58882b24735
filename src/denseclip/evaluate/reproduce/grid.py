"""The runs of a published table."""

from collections.abc import Mapping
from dataclasses import dataclass

from denseclip.errors import UserError
from denseclip.recipes import Method, Published, Recipe, ScaleName, published


@dataclass(frozen=True)
class Row:
    """One figure of a table.

    model, data: names under which they are shown. source: what is loaded as the model. place: where it stands
    in the published table (model, data set, method). published: its figure there, if any.
    """

    model: str
    source: str
    data: str
    method: Method
    place: tuple[str, str, str]
    published: Published | None = None


def rows_of(recipe: Recipe, scale: ScaleName, models: Mapping[str, str]) -> list[Row]:
    """Rows in the order in which they are run: by model, data set, method.

    models: by published name, what to load instead of what the recipe says. Only at paper scale are there
    published figures to compare with.
    """
    chosen = recipe.scales[scale]
    sources = {**chosen.models, **check_models(recipe, scale, models)}
    return [
        Row(
            model=chosen.models[name],
            source=sources[name],
            data=data,
            method=method,
            place=(name, place, method.name),
            published=published().get((recipe.name, name, place, method.name)) if scale == "paper" else None,
        )
        for name in chosen.models
        for place, data in chosen.data.items()
        for method in recipe.methods
    ]


def check_models(recipe: Recipe, scale: ScaleName, models: Mapping[str, str]) -> Mapping[str, str]:
    """`models` itself; UserError if it names a model that the table does not have."""
    known = recipe.scales[scale].models
    for name in models:
        if name not in known:
            raise UserError(f"{recipe.name} has no model {name!r}; it has {', '.join(known)}")
    return models
