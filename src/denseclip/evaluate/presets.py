"""Named protocols, and a segmenter ready for a data set."""

from pathlib import Path
from typing import Any

from denseclip.data.specs import DatasetSpec
from denseclip.errors import UserError
from denseclip.segment.load import load, set_dataset_classes
from denseclip.segment.segmenter import Segmenter

PROTOCOLS: dict[str, dict[str, Any]] = {
    "ours": {},  # whole pictures at the data set's size, CLIP's own arithmetic, 85 templates
    "official": {
        "compat": "official",
        "ks_norm": "positions",
    },  # as the papers' numbers were made (maskclip a.3)
    "slide": {"resize": "short:336", "slide": "224/112", "templates": "80"},  # SCLIP, ClearCLIP, NACLIP
}


def protocol_settings(protocol: str, spec: DatasetSpec, **changes: Any) -> dict[str, Any]:
    """Keywords of `make_settings` for a data set; `changes` go before what the protocol says.

    Unless something else is said: the papers' size for the data set, and for one with a background class the
    usual background words (not under "official": the published code looks for the word itself).
    Raises UserError for an unknown protocol.
    """
    if protocol not in PROTOCOLS:
        raise UserError(f"protocol {protocol!r} is unknown; choose one of {', '.join(PROTOCOLS)}")
    settings: dict[str, Any] = {"resize": spec.resize}
    if spec.background is not None and protocol != "official" and changes.get("threshold") is None:
        settings["background"] = "usual"
    return settings | PROTOCOLS[protocol] | changes


def segmenter_for(
    spec: DatasetSpec,
    model: str | Path = "tiny-rn",
    *,
    protocol: str = "ours",
    pretrained: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    cache: bool = True,
    **changes: Any,
) -> Segmenter:
    """A model with the words of a data set, under a named protocol.

    changes: keywords of `make_settings` (preset, refine, resize, ...) that differ from the protocol.
    Raises UserError for whatever cannot be used.
    """
    settings = protocol_settings(protocol, spec, **changes)
    segmenter = load(
        model, pretrained=pretrained, device=device, precision=precision, cache=cache, **settings
    )
    set_dataset_classes(segmenter, spec)
    return segmenter
