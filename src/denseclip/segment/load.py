"""`denseclip.load`: from names and plain values to a Segmenter."""

from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from denseclip.clip import load_clip
from denseclip.clip.device import pick_device, pick_precision
from denseclip.data.transforms import ResizeRule
from denseclip.errors import UserError
from denseclip.nets.saved import load_trained, trained_kind
from denseclip.segment.background import Background
from denseclip.segment.options import Compat, DenseOptions, KeyNorm, Refinement
from denseclip.segment.options import preset as named_preset
from denseclip.segment.segmenter import Segmenter
from denseclip.segment.settings import Settings
from denseclip.segment.views import Slide
from denseclip.text import ClassPrompts, EmbeddingCache
from denseclip.text import templates as named_templates
from denseclip.text.prompts import ClassSource, read_words


def load(
    model: str | Path = "tiny-rn",
    classes: "ClassSource | ClassPrompts | None" = None,
    *,
    preset: str | DenseOptions = "maskclip",
    pretrained: str | None = None,
    activation: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    cache: bool = True,
    **options: Any,
) -> Segmenter:
    """Load a model with words, ready to segment.

    model: "tiny-rn", "tiny-vit" (embedded), a name such as "ViT-B-16", or a path; see `load_clip`. The path of a
    checkpoint of `denseclip train` gives the trained model, with its own words if there are no others.
    classes: words, see `ClassPrompts.parse`; may be set later. preset: the last block, see `PRESETS`.
    activation: "quick-gelu" or "gelu", for a file of weights that does not say it.
    device: "auto", "cpu", "cuda", ... precision: "auto", "fp32", "bf16", "fp16". cache: keep class embeddings on
    disk. options: the keywords of `make_settings`.

    Raises UserError for whatever cannot be used.
    """
    settings = make_settings(preset, **options)
    target = pick_device(device)
    how = pick_precision(precision, target)
    store = EmbeddingCache() if cache else None
    if trained_kind(model):
        if activation is not None:
            raise UserError(f"{model} is a trained model, which knows its activation; leave out activation")
        trained = load_trained(model, target, how.dtype)
        return Segmenter(trained, classes, settings, cache=store, precision=how)
    clip = load_clip(model, pretrained=pretrained, activation=activation, device=target)
    return Segmenter(clip.folded().to(dtype=how.dtype), classes, settings, cache=store, precision=how)


def make_settings(
    preset: str | DenseOptions = "maskclip",
    *,
    refine: str | Refinement | None = None,
    ks_norm: KeyNorm = "channels",
    compat: str | None = None,
    resize: str | ResizeRule = "2048x512",
    slide: str | Slide | None = None,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    background: ClassSource | None = None,
    threshold: float | None = None,
    templates: str | Sequence[str] = "85",
    **dense: Any,
) -> Settings:
    """`Settings` from plain values.

    preset: a name of `PRESETS`, or `DenseOptions`. refine: "pd", "ks", "pd+ks", with thresholds "pd=0.3".
    compat: "official" for the quirks that the published numbers have. resize: "2048x512" (long x short side),
    "short:512", "long:520", "exact:224x224", "none". slide: "224/112" (crop/stride). scales: factors on that size.
    background: words of the background, "usual" for a list of usual ones. threshold: probability below which a
    pixel is background. templates: "85", "80", "1" or sentences with {}. dense: fields of `DenseOptions` that
    differ from the preset (mix, residual, mlp, sigma, cls_bias, stride).

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
        slide=Slide.parse(slide) if isinstance(slide, str) else slide,
        scales=tuple(scales),
        flip=flip,
        background=Background(() if background is None else tuple(read_words(background)), threshold),
        templates=named_templates(templates),
    )
