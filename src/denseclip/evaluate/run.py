"""A model on a data set, under a published protocol: read, segment, count."""

import json
import time
import tomllib
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from denseclip.data.datasets import DatasetSpec, Sample, SegmentationDataset
from denseclip.errors import UserError, choose
from denseclip.evaluate.metrics import ConfusionMatrix
from denseclip.evaluate.result import Corruption, Protocol, Result
from denseclip.io import atomic_path
from denseclip.loading import class_ids, load, make_settings, set_dataset_classes
from denseclip.models.checkpoint import trained_kind
from denseclip.segment.engine import Engine, Spread, default_batch
from denseclip.segment.segmentation import Segmentation
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import AUTO, LATER, Compat, Refinement, has_background, preset

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
    usual = None  # a background rule, unless the model has learned what the background is
    if trained_kind(model) and "background" not in changes:
        usual = settings.pop("background", None)
    segmenter = load(
        model,
        pretrained=pretrained,
        device=device,
        precision=precision,
        cache=cache,
        **{"background": None, **settings},
    )
    if "refine" not in {**settings, **segmenter.clip.recommended}:  # figures are of the method itself
        segmenter.configure(refine=Refinement())
    if usual is not None and not has_background(segmenter.class_prompts):
        segmenter.configure(background=make_settings(background=usual).background)
    set_dataset_classes(segmenter, worded(spec, changes.get("compat")))
    return segmenter


def segmenter_on(spec: DatasetSpec, model: str | Path, settings: dict[str, Any], device: str) -> Segmenter:
    """`segmenter_for` on a device, whatever the settings say of it."""
    return segmenter_for(spec, model, **(settings | {"device": device}))


@dataclass
class Tally:
    """What has been counted. done: images looked at, the skipped ones among them. seconds: of all runs."""

    matrix: ConfusionMatrix
    done: int = 0
    skipped: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def whole(self) -> bool:
        """Whether every image is counted entirely or not at all; an interruption may fall between two lines."""
        images = self.matrix.per_image
        same_pixels = int(self.matrix.matrix.sum()) == int(images[..., 2].sum())
        return same_pixels and len(images) + len(self.skipped) == self.done

    def save(self, path: Path, protocol: Protocol) -> None:
        """Write everything, unless an image is half counted: then what was written before stays."""
        if not self.whole:
            return
        content = {
            "protocol": json.dumps(protocol.to_dict()),
            "counts": self.matrix.state_dict(),
            "done": self.done,
            "skipped": self.skipped,
            "seconds": self.seconds,
        }
        with atomic_path(path) as temporary:
            torch.save(content, temporary)

    def load(self, path: Path, protocol: Protocol) -> None:
        """Continue from a file; raises UserError if it cannot be read or belongs to another protocol."""
        remove = "remove it, or write the results elsewhere"
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
            other = Protocol.from_dict(json.loads(content["protocol"]))
            counts, self.done = content["counts"], int(content["done"])
            self.skipped, self.seconds = list(content["skipped"]), float(content["seconds"])
        except Exception as error:  # torch raises whatever the damaged bytes lead to
            raise UserError(
                f"cannot continue from {path} ({type(error).__name__}, it is damaged): {remove}"
            ) from None
        different = protocol.differences(other)
        if different:
            raise UserError(
                f"{path} belongs to another evaluation (other {', '.join(different)[:120]}): {remove}"
            )
        self.matrix.load_state_dict(counts)


Progress = Callable[[int, int], None]  # done, total
Change = Callable[[Sample], np.ndarray]
SAVE_SECONDS = 20.0  # the most that an interruption without warning can cost
T = TypeVar("T")
Labeled = tuple[Callable[[], Segmentation], np.ndarray]  # what gives a result, and the true mask


def usable(
    engine: Engine[int, Any, Any, T] | Spread[int, T],
    indices: range,
    skipped: list[str],
    *,
    skip_bad: bool,
    name: str,
    progress: Progress,
) -> Generator[T | None, None, None]:
    """What an engine makes of images, None for one that cannot be used; `skipped` gets a message for each.

    progress: called with (done, total) images, first with those before the range. Raises UserError for an image that
    cannot be used (unless skip_bad), and at the end if none could be.
    """
    total = indices.stop
    progress(indices.start, total)
    with closing(engine.run(indices)) as results:
        for index, one in results:
            if isinstance(one, UserError):
                if not skip_bad:
                    raise one
                skipped.append(str(one))
                yield None
            else:
                yield one
            progress(index + 1, total)
    if len(skipped) == total:
        raise UserError(f"none of {total} images of {name} can be used; the first: {skipped[0]}")


def evaluate(
    segmenter: Segmenter,
    dataset: SegmentationDataset,
    *,
    change: Change | None = None,
    corruption: Corruption | None = None,
    state: Path | None = None,
    limit: int | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
    devices: Sequence[str] = (),
    again: Callable[[str], Segmenter] | None = None,
) -> Result:
    """Segment every image of a data set and count pixels.

    segmenter: with the data set's words, see `set_dataset_classes`. change: the (H, W, 3) uint8 RGB picture to
    run in place of a sample's own; `corruption` names it in the protocol. state: a file in which an interrupted
    evaluation continues, to the same counts; it stays when all is done. limit: only the first images. skip_bad:
    list images that cannot be used and go on. progress: called with (done, total) images, first with those of an
    earlier run. devices: run on these, a process each; `again` makes the segmenter for one, and can be pickled.

    On a CPU every image is run by itself, so that no figure depends on order or on what else is evaluated; a GPU
    runs images of one size together.
    Raises UserError for an image that cannot be used (unless skip_bad), if none can be used, and if `state`
    belongs to another evaluation.
    """
    assert (change is None) == (corruption is None), "a change needs its name in the protocol"
    assert limit is None or limit > 0
    total = len(dataset) if limit is None else min(limit, len(dataset))
    protocol = Protocol.of(segmenter, dataset, total, corruption)
    spec = dataset.spec
    tally = Tally(ConfusionMatrix(len(spec.classes), per_image=True))
    if state is not None and state.exists():
        tally.load(state, protocol)
        if tally.skipped and not skip_bad:
            raise UserError(
                f"{state} left out {len(tally.skipped)} bad images: skip them again, or remove it"
            )
    engine: Engine[int, Sample, Labeled, ConfusionMatrix] | Spread[int, ConfusionMatrix]
    engine = _counting(segmenter, dataset, change)
    if devices:
        assert again is not None, "how is the segmenter made on another device?"
        engine = Spread(partial(_counting_on, again, dataset, change), devices)
    counts = usable(
        engine,
        range(tally.done, total),
        tally.skipped,
        skip_bad=skip_bad,
        name=spec.name,
        progress=progress or (lambda done, total: None),
    )
    saved = started = time.perf_counter()
    before = tally.seconds
    try:
        with closing(counts):
            for one in counts:
                if one is not None:
                    tally.matrix.merge(one)
                tally.done += 1
                now = time.perf_counter()
                tally.seconds = before + now - started
                if state is not None and now - saved > SAVE_SECONDS:
                    tally.save(state, protocol)
                    saved = now
    finally:
        if state is not None:
            tally.save(state, protocol)
    return Result(protocol, tally.matrix, spec.classes, spec.unseen, tally.skipped, tally.seconds)


def _counting_on(
    again: Callable[[str], Segmenter], dataset: SegmentationDataset, change: Change | None, device: str
) -> Engine[int, Sample, Labeled, ConfusionMatrix]:
    return _counting(again(device), dataset, change)


def _counting(
    segmenter: Segmenter, dataset: SegmentationDataset, change: Change | None
) -> Engine[int, Sample, Labeled, ConfusionMatrix]:
    """An engine from an image's number to its counts."""
    spec = dataset.spec
    ids = torch.tensor(class_ids(segmenter, spec))
    in_order = ids.tolist() == list(range(len(ids)))

    def read(index: int) -> Sample:
        sample = dataset[index]
        return sample if change is None else replace(sample, image=change(sample))

    def encode(samples: list[Sample]) -> list[Labeled]:
        begun = segmenter.begin([sample.image for sample in samples])
        return [(one, sample.mask) for one, sample in zip(begun, samples, strict=True)]

    def count(index: int, labeled: Labeled) -> ConfusionMatrix:
        del index
        arrive, mask = labeled
        predicted = torch.from_numpy(arrive().mask)  # (H, W)
        predicted = predicted if in_order else ids[predicted.long()]
        counts = ConfusionMatrix(len(spec.classes), per_image=True)
        counts.update(predicted, torch.from_numpy(mask), spec.ignore_index)
        return counts

    return Engine(
        read, encode, count, default_batch(segmenter.clip.device), lambda sample: sample.image.shape
    )
