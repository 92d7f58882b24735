"""Which device and precision to run in."""

from dataclasses import dataclass

import torch

from denseclip.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """name: "fp32", "bf16" or "fp16". why: how it came about, for a protocol."""

    name: str
    why: str = "asked for"

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type."""
        return PRECISIONS[self.name]

    def __str__(self) -> str:
        return f"{self.name} ({self.why})"


def pick_device(name: str = "auto") -> torch.device:
    """ "auto": a GPU if there is one, else the CPU; or any device torch knows, such as "cuda:1".

    Raises UserError for an unknown device and for one that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"device {name!r} cannot be used on this machine; choose auto or cpu") from error
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """ "auto": bf16 where it is fast (recent GPUs, CPUs with AMX or AVX512-BF16), else fp32; or fp32, bf16, fp16.

    Raises UserError for anything else, and for fp16 on a CPU.
    """
    if name == "auto":
        reason = bf16_unit(device)
        return (
            Precision("bf16", f"auto: {reason}") if reason else Precision("fp32", "auto: no fast bf16 here")
        )
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is unknown; choose auto, {', '.join(PRECISIONS)}")
    if name == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 is for GPUs; choose bf16 or fp32 on a CPU")
    return Precision(name)


def bf16_unit(device: torch.device) -> str:
    """What makes bf16 the faster type here, "" if nothing does."""
    if device.type == "cuda":
        return "the GPU has bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    if torch.cpu._is_amx_tile_supported():
        return "the CPU has AMX"
    return "the CPU has AVX512-BF16" if torch.cpu._is_avx512_bf16_supported() else ""


def processor(device: torch.device) -> str:
    """Which processor figures come from: the GPU's name, or what torch uses of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    unit = bf16_unit(device)
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}" + (f" ({unit})" if unit else "")
