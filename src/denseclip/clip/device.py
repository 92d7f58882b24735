"""Which device and precision to run in."""

import torch

from denseclip.errors import UserError

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


def has_bf16(device: torch.device) -> bool:
    """Whether bf16 is the faster one here: on recent GPUs, and on CPUs with AMX or AVX512-BF16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def pick_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto": bf16 where it is fast, else fp32; or fp32, bf16, fp16. UserError for anything else."""
    if name == "auto":
        return torch.bfloat16 if has_bf16(device) else torch.float32
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is unknown; choose auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
