"""The one exception users meet, and what to do about a name that is not known or a package that is not here."""

from collections.abc import Iterable
from difflib import get_close_matches
from importlib.util import find_spec

EXTRAS: dict[str, tuple[str, ...]] = {
    "hub": ("open_clip", "huggingface_hub"),
    "web": ("starlette", "uvicorn", "pycocotools"),
    "coco": ("pycocotools",),
    "train": ("lightning_fabric", "pydantic", "tensorboard", "timm"),
    "evaluate": ("scipy", "matplotlib"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "cluster": ("ray",),
}
"""The packages that each extra of pyproject.toml brings, by the names they are imported under."""


class UserError(ValueError):
    """A mistake the user can mend. The message is one line: what is wrong, then the fix.

    The command line prints it without a traceback and exits non-zero.
    """


def nearest(name: str, known: Iterable[str], *, most: int = 2, cutoff: float = 0.7) -> list[str]:
    """The known names that are closest to one, whatever the case; none if none is close."""
    names = {one.lower(): one for one in known}
    return [names[one] for one in get_close_matches(name.strip().lower(), names, n=most, cutoff=cutoff)]


def choose(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The fix for an unknown name: "did you mean NAME?" if one is close, else `otherwise`, or all names."""
    names = list(known)
    if near := nearest(name, names):
        return f"did you mean {' or '.join(near)}?"
    return otherwise or f"choose one of {', '.join(names)}"


def need(module: str, what: str) -> None:
    """Raise a `UserError` with the install line if `what` lacks its package; nothing is imported."""
    if find_spec(module) is None:
        raise UserError(f"{what} needs {module}: {_install(module)}")


def not_installed(error: ModuleNotFoundError) -> UserError | None:
    """The same for an import that failed; None for a module that no extra brings, which is a fault of ours."""
    module = (error.name or "").partition(".")[0]
    known = any(module in modules for modules in EXTRAS.values())
    return UserError(f"this needs {module}: {_install(module)}") if known else None


def _install(module: str) -> str:
    extra = next((name for name, modules in EXTRAS.items() if name != "web" and module in modules), None)
    extra = extra or ("web" if module in EXTRAS["web"] else None)
    return f"pip install 'denseclip[{extra}]'" if extra else f"pip install {module}"
