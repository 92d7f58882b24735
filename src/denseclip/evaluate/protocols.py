"""Under which settings a data set is evaluated: named protocols, and those of training-free methods' code."""

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError, choose
from denseclip.segment.settings import AUTO, LATER, Compat, preset

PLAIN: dict[str, Any] = {"preset": "maskclip", "slide": "none", "refine": "none"}
PROTOCOLS: dict[str, dict[str, Any]] = {
    "recommended": {},  # as the weights' own configuration recommends; where it says nothing, ours
    "ours": PLAIN,  # whole pictures at the data set's size, CLIP's own arithmetic, 85 templates
    "official": PLAIN
    | {
        "compat": "official",
        "ks_norm": "positions",
    },  # as the papers' numbers were made (maskclip a.3)
    "slide": PLAIN
    | {"resize": "short:336", "slide": "224/112", "templates": "80"},  # SCLIP, ClearCLIP, NACLIP
}
RESCLIP = ("rcs", "sfr", "feedback_threshold")
OTHERS = ("words", "spaced", "logit_scale", "area")  # which are no keywords of `make_settings`


def protocol_settings(protocol: str, spec: DatasetSpec, **changes: Any) -> dict[str, Any]:
    """Keywords of `make_settings` for a data set; `changes` go before what the protocol says.

    Unless something else is said: the papers' size for the data set, and for one with a background class the
    usual background words (not under "official": the published code looks for the word itself). A method's name as
    `compat` stands for all that its code does on the data set, the method itself included.
    Raises UserError for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is unknown; {choose(protocol, PROTOCOLS)}")
    settings: dict[str, Any] = {"resize": spec.resize}
    if spec.background is not None and protocol != "official" and changes.get("threshold") is None:
        settings["background"] = "usual"
    settings |= PROTOCOLS[protocol]
    method = changes.get("compat")
    if method not in LATER:
        return settings | changes
    found = published(method, spec.name)
    settings["preset"] = method  # they have the same names
    changes = {name: value for name, value in changes.items() if value != AUTO}
    dense = preset(changes.get("preset", method))
    wrong = [key for key in RESCLIP if not (dense.rcs if key == "rcs" else dense.sfr)]
    settings |= {key: value for key, value in found.items() if key not in (*OTHERS, *wrong)}
    exact = replace(Compat.named(method), logit_scale=found["logit_scale"], area=found.get("area", 0.0))
    return settings | changes | {"compat": exact}


def published(method: str, data: str) -> dict[str, Any]:
    """What a method's code says of a data set: keywords of `make_settings`, and `OTHERS`."""
    content, found = _content(), dict[str, Any]()
    for part in (content["all"], content[method]):
        found |= {key: value for key, value in part.items() if not isinstance(value, Mapping)}
    for part in (content["all"].get(data, {}), content[method].get(data, {})):
        found |= {**part, "words": {**found.get("words", {}), **part.get("words", {})}}
    return {key: tuple(value) if key in RESCLIP[:2] else value for key, value in found.items()}


def worded(spec: DatasetSpec, method: object) -> DatasetSpec:
    """A data set with the words that a method's code looks for; `method` is the name of a `compat`, if any."""
    if method not in LATER:
        return spec
    found = published(str(method), spec.name)
    names = spec.classes if found.get("spaced") else [name.replace(" ", "") for name in spec.classes]
    own: Mapping[str, list[str]] = found["words"]
    prompts = tuple(tuple(own.get(name, (word,))) for name, word in zip(spec.classes, names, strict=True))
    return replace(spec, prompts=prompts)


@cache
def _content() -> dict[str, Any]:
    return tomllib.loads((files("denseclip.recipes") / "protocols.toml").read_text(encoding="utf-8"))
