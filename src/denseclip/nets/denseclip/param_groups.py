"""Groups of parameters for AdamW (section 4: backbone at a tenth of the rate, text encoder fixed)."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from denseclip.nets.denseclip.guidance import LanguageGuided

# Official custom keys, longest first: the first that is part of a name decides. (rate, weight decay) factors.
OFFICIAL_RULES: tuple[tuple[str, float, float], ...] = (
    ("text_encoder", 0.0, 1.0),
    ("backbone", 0.1, 1.0),
    ("norm", 1.0, 0.0),
)


@dataclass(frozen=True)
class Treatment:
    """How a parameter learns. rate, decay: factors on the optimiser's values. key: the official rule that fits."""

    rate: float
    decay: float
    key: str | None = None


def treatments(model: LanguageGuided) -> dict[str, Treatment]:
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
    model: LanguageGuided, *, lr: float = 1e-4, weight_decay: float = 1e-4
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
