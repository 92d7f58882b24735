"""`denseclip.load`: from names and plain values to a Segmenter, and the words of a data set for it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from denseclip.clip import load_clip
from denseclip.clip.device import Precision, pick_device, pick_precision
from denseclip.data.datasets import DatasetSpec
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError
from denseclip.models.checkpoint import DETECTORS, trained_kind
from denseclip.models.trained import load_trained
from denseclip.segment.interface import TrainedModel
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import (
    AUTO,
    GUIDED,
    NONE,
    Background,
    Compat,
    DenseOptions,
    Fusion,
    KeyNorm,
    Refinement,
    Settings,
    Slide,
    has_background,
)
from denseclip.segment.settings import preset as named_preset
from denseclip.text import BACKGROUND, ClassPrompts, EmbeddingCache
from denseclip.text import templates as named_templates
from denseclip.text.prompts import ClassSource, read_words


def load(
    model: str | Path = "tiny-rn",
    classes: "ClassSource | ClassPrompts | None" = None,
    *,
    preset: str | DenseOptions = AUTO,
    pretrained: str | None = None,
    activation: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    cache: bool = True,
    **options: Any,
) -> Segmenter:
    """Load a model with words, ready to segment.

    model: "tiny-rn", "tiny-vit" (embedded), a name such as "ViT-B-16", or a path; see `load_clip`. The path of a
    checkpoint of `denseclip train` gives the trained model, with its own words if there are no others. A detector
    takes classes of its own, `threshold` and `resize` only.
    classes: words, see `ClassPrompts.parse`; may be set later. preset: the last block, see `PRESETS`.
    activation: "quick-gelu" or "gelu", for a file of weights that does not say it.
    device: "auto", "cpu", "cuda", ... precision: "auto", "fp32", "bf16", "fp16". cache: keep class embeddings on
    disk. options: the keywords of `make_settings`. Here preset, resize, slide, refine and background are "auto" by
    default: what the weights' own configuration recommends (see `Clip.recommended`), else maskclip on whole pictures
    with "guided" outlines, and generic words make the background. A trained model, and published protocols (compat),
    keep to what they are. Classes that have a background of their own get no other.

    Raises UserError for whatever cannot be used.
    """
    kind = trained_kind(model)
    if kind and activation is not None:
        raise UserError(f"{model} is a trained model, which knows its activation; leave out activation")
    if options.setdefault("background", AUTO) == AUTO and (kind or _own_background(classes)):
        options["background"] = NONE
    options["preset"] = preset
    # a value that cannot be used is said before weights are read
    settings = make_settings(**resolve_auto(options, TrainedModel.recommended if kind else {}))
    target = pick_device(device)
    how = pick_precision("fp32" if kind in DETECTORS and precision == "auto" else precision, target)
    store = EmbeddingCache() if cache else None
    if kind in DETECTORS:
        return _load_detector(model, classes, settings, target, how)
    if kind:
        trained = load_trained(model, target, how.dtype)
        return Segmenter(trained, classes, settings, cache=store, precision=how)
    clip = load_clip(model, pretrained=pretrained, activation=activation, device=target)
    if clip.recommended:
        settings = make_settings(**resolve_auto(options, clip.recommended))
    return Segmenter(clip.folded().to(dtype=how.dtype), classes, settings, cache=store, precision=how)


def resolve_auto(options: Mapping[str, Any], recommended: Mapping[str, str]) -> dict[str, Any]:
    """Keywords of `make_settings` from those that may say "auto", or nothing, for what a model recommends.

    A published protocol (compat) is made of what it says alone.
    """
    published = options.get("compat") not in (None, "none")
    usual = {
        "preset": "maskclip",
        "resize": "2048x512",
        "slide": NONE,
        "refine": NONE if published else GUIDED,
    }
    best = usual if published else usual | dict(recommended)
    return {**options, **{name: best[name] for name in usual if options.get(name, AUTO) == AUTO}}


def _load_detector(
    model: str | Path,
    classes: "ClassSource | ClassPrompts | None",
    settings: Settings,
    device: torch.device,
    precision: Precision,
) -> Segmenter:
    from denseclip.detection.masks import DetectorSegmenter
    from denseclip.detection.predict import load_detector  # torchvision takes seconds

    detector, usual = load_detector(model, device, precision.dtype), Settings().resize
    if settings.resize != usual:
        detector.resize = settings.resize
    return DetectorSegmenter(detector, classes, replace(settings, resize=usual), precision=precision)


def make_settings(
    preset: str | DenseOptions = "maskclip",
    *,
    refine: str | Refinement | None = None,
    ks_norm: KeyNorm = "channels",
    compat: str | Compat | None = None,
    resize: str | ResizeRule = "2048x512",
    slide: str | Slide | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    fusion: Fusion = "scores",
    background: ClassSource | None = None,
    threshold: float | None = None,
    templates: str | Sequence[str] = "85",
    **dense: Any,
) -> Settings:
    """`Settings` from plain values.

    preset: a name of `PRESETS`, or `DenseOptions`. refine: "pd", "ks", "pd+ks", with thresholds "pd=0.3".
    compat: "official" or the name of a later method, for the quirks of its code. resize: "2048x512" (long x short
    side), "short:512", "long:520", "exact:224x224", "none". slide: "224/112" (crop/stride) or "none".
    scales: factors on that size.
    fusion: "scores" or "features", what windows are put together by.
    background: words of the background, "usual" for a list of usual ones, "auto" for what none of the words fits.
    threshold: probability below which a pixel is background. templates: "85", "80", "1" or sentences with {}.
    dense: fields of `DenseOptions` that differ from the preset (mix, residual, mlp, sigma, cls_bias,
    stride, rcs, sfr, proxy, proxy_heads).

    Raises UserError for a value that cannot be used, TypeError for an unknown keyword.
    """
    unknown = set(dense) - {field.name for field in fields(DenseOptions)}
    if unknown:
        raise TypeError(f"unknown option {sorted(unknown)[0]!r}")
    official = Compat.named(compat)
    return Settings(
        dense=replace(named_preset(preset), **dense),
        refine=refine if isinstance(refine, Refinement) else Refinement.parse(refine, ks_norm),
        compat=official,
        resize=resize if isinstance(resize, ResizeRule) else ResizeRule.parse(resize),
        slide=None if slide == NONE else Slide.parse(slide) if isinstance(slide, str) else slide,
        scales=tuple(scales),
        flip=flip,
        fusion=fusion,
        background=_background(background, threshold),
        templates=named_templates(templates),
    )


def _background(words: ClassSource | None, threshold: float | None) -> Background:
    if words is None or words == NONE:
        return Background((), threshold)
    return (
        Background((), threshold, auto=True)
        if words == AUTO
        else Background(tuple(read_words(words)), threshold)
    )


def _own_background(classes: "ClassSource | ClassPrompts | None") -> bool:
    return classes is not None and has_background(ClassPrompts.parse(classes))


def set_dataset_classes(segmenter: Segmenter, spec: DatasetSpec) -> None:
    """Ask a segmenter for the classes of a data set.

    If its settings have a background rule, that rule takes the place of the data set's background class;
    otherwise the background is looked for with its own word, like any class.
    Raises UserError if there is a rule but no such class.
    """
    scored = _scored(segmenter, spec)
    classes, prompts = tuple(spec.classes[k] for k in scored), tuple(spec.prompts[k] for k in scored)
    segmenter.set_classes(ClassPrompts(classes, prompts, segmenter.settings.compat.by_word))


def class_ids(segmenter: Segmenter, spec: DatasetSpec) -> list[int]:
    """The data set's class index for each id in the segmenter's masks, after `set_dataset_classes`."""
    scored = _scored(segmenter, spec)
    names = tuple(spec.classes[k] for k in scored)
    if not segmenter.settings.background:
        assert segmenter.classes == names, f"classes of {spec.name} are not set"
        return list(scored)
    assert segmenter.classes == (BACKGROUND, *names), f"classes of {spec.name} are not set"
    assert spec.background is not None
    return [spec.background, *scored]


def _scored(segmenter: Segmenter, spec: DatasetSpec) -> Sequence[int]:
    """Indices of the classes that the segmenter has words for."""
    everything = range(len(spec.classes))
    if not segmenter.settings.background:
        return everything
    if spec.background is None:
        raise UserError(f"{spec.name} has no background class: leave out the background words and threshold")
    return [k for k in everything if k != spec.background]
