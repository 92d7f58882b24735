"""A DenseCLIP from a CLIP, and its groups of parameters."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

from torch import Tensor, nn

from denseclip.clip import Clip
from denseclip.clip.checkpoint import load_weights
from denseclip.clip.clip import Tokenize, tokenizer_for
from denseclip.clip.transformer import resize_positions
from denseclip.errors import UserError
from denseclip.models.config import DenseClipConfig
from denseclip.models.denseclip import DenseCLIPBase, DenseClipSegmenter
from denseclip.models.encoders import Shapes

State = dict[str, Tensor]
TIMM_SIZE = 512  # pixels, of a new attention pool when no resolution is given


def build_denseclip(
    config: DenseClipConfig,
    source: Clip | Shapes,
    classes: Sequence[str],
    *,
    tokenize: Tokenize | None = None,
) -> DenseClipSegmenter:
    """A DenseCLIP for these classes.

    source: the CLIP whose weights it starts from (batch norms not folded), or the sizes of a model whose weights
    are loaded afterwards. tokenize: names -> tokens (K, L), padded with zeros; default: that of the CLIP.

    Raises UserError for what does not fit together.
    """
    shapes = shapes_for(config, source) if isinstance(source, Clip) else source
    if tokenize is None and shapes.text is not None:
        tokenize = source.tokenizer if isinstance(source, Clip) else tokenizer_for(shapes.text, "this model")
    model = DenseClipSegmenter(config, shapes, classes, tokenize)
    if isinstance(source, Clip):
        start_from(model, source)
    return model


def shapes_for(config: DenseClipConfig, clip: Clip) -> Shapes:
    """The sizes of a model that starts from this CLIP."""
    shapes = Shapes.of_clip(clip, language=config.language)
    if config.backbone != "clip":
        timm = {"timm_model_name": config.backbone.removeprefix("timm:"), "image_size": TIMM_SIZE}
        shapes = replace(shapes, vision=timm)
    return shapes.with_resolution(config.resolution)


def start_from(model: DenseCLIPBase, clip: Clip) -> None:
    """Load the CLIP's weights, every one accounted for; what it lacks keeps its initial values."""
    if model.config.backbone == "clip":
        image = _floats(clip.visual)
        if "bn1.running_mean" not in image and "layer1.0.conv1.weight" in image:
            raise UserError(f"{clip.name}: its batch norms are folded; pass the CLIP as load_clip returns it")
        unused = () if model.config.language else ("attnpool.", "ln_post.", "proj")
        _load(model.backbone, image, clip.name, new=model.backbone.new_parameters, unused=unused)
    if model.config.language:
        text = _floats(clip.text)
        if "text_projection" not in text:
            raise UserError(
                f"{clip.name}: its text tower does not end with a plain matrix; take another CLIP"
            )
        _load(model.text_encoder, text, clip.name)


def _load(
    module: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    *,
    new: tuple[str, ...] = (),
    unused: tuple[str, ...] = (),
) -> None:
    own = module.state_dict()
    given = {n: _fitted(t, own.get(n)) for n, t in state.items() if not n.startswith(unused)}
    load_weights(module, given, source, "take another CLIP", new=new)


def _fitted(tensor: Tensor, own: Tensor | None) -> Tensor:
    """A position table of another grid is resized; nothing else may differ in size."""
    if own is None or tensor.ndim != 2 or tensor.shape == own.shape:
        return tensor
    side = isqrt(len(own) - 1)
    return resize_positions(tensor, (side, side), "bilinear") if tensor.shape[1] == own.shape[1] else tensor


def _floats(tower: nn.Module) -> State:
    return {n: t.float() if t.is_floating_point() else t for n, t in tower.state_dict().items()}


# Official custom keys, longest first: the first that is part of a name decides. (rate, weight decay) factors.
OFFICIAL_RULES: tuple[tuple[str, float, float], ...] = (
    ("text_encoder", 0.0, 1.0),
    ("backbone", 0.1, 1.0),
    ("norm", 1.0, 0.0),
)


@dataclass(frozen=True)
class Treatment:
    """How a parameter learns. rate, decay: factors on the optimizer's values. key: the official rule that fits."""

    rate: float
    decay: float
    key: str | None = None


def treatments(model: DenseCLIPBase) -> dict[str, Treatment]:
    """Every parameter that learns, by name.

    Official: by `OFFICIAL_RULES`, the text encoder with rate 0. Ours: pretrained parameters of the backbone at a
    tenth of the rate, all others at the full one; vectors (norms, biases, gamma) do not decay.
    """
    rule = _official if model.config.official else _ours
    return {
        n: rule(n, p.ndim, model.backbone.new_parameters)
        for n, p in model.named_parameters()
        if p.requires_grad
    }


def param_groups(
    model: DenseCLIPBase, *, lr: float = 1e-4, weight_decay: float = 1e-4
) -> list[dict[str, Any]]:
    """Groups for `torch.optim.AdamW`: "params", "names", "lr", "weight_decay", and "rate", the factor in "lr"."""
    parameters = dict(model.named_parameters())
    grouped: dict[tuple[float, float], list[str]] = defaultdict(list)
    for name, how in treatments(model).items():
        grouped[how.rate, how.decay].append(name)
    return [
        {
            "params": [parameters[name] for name in names],
            "names": names,
            "rate": rate,
            "lr": lr * rate,
            "weight_decay": weight_decay * decay,
        }
        for (rate, decay), names in grouped.items()
    ]


def _official(name: str, dimensions: int, fresh: tuple[str, ...]) -> Treatment:
    del dimensions, fresh
    for key, rate, decay in OFFICIAL_RULES:
        if key in name:
            return Treatment(rate, decay, key)
    return Treatment(1.0, 1.0)


def _ours(name: str, dimensions: int, fresh: tuple[str, ...]) -> Treatment:
    inside = name.removeprefix("backbone.")
    pretrained = inside != name and not inside.startswith(fresh)
    return Treatment(0.1 if pretrained else 1.0, 1.0 if dimensions > 1 else 0.0)
