"""Blocks whose insides are computed again for the backward pass, so that they need not be kept."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, wraps
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

BLOCKS = ("Bottleneck", "BasicBlock", "Block")
"""Names of the classes of residual blocks, of ResNets and ViTs."""


def residual_blocks(model: nn.Module) -> list[nn.Module]:
    """Those that learn."""
    return [
        module
        for module in model.modules()
        if type(module).__name__ in BLOCKS and any(weight.requires_grad for weight in module.parameters())
    ]


def recompute_blocks(model: nn.Module) -> None:
    """Keep of each residual block that learns its input alone; names of weights stay, and so do values."""
    for block in residual_blocks(model):
        block.forward = _recomputed(block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(forward)
    def run(*inputs: Any, **options: Any) -> Tensor:
        if not block.training:
            return forward(*inputs, **options)
        contexts: Callable[[], tuple[AbstractContextManager[None], AbstractContextManager[None]]]
        contexts = lambda: (nullcontext(), counted_once(block))  # noqa: E731
        return checkpoint(partial(forward, **options), *inputs, use_reentrant=False, context_fn=contexts)

    return run


@contextmanager
def counted_once(block: nn.Module) -> Iterator[None]:
    """Batch norms have seen the same batch already: their statistics stay as they are."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm, norm.momentum) for norm in norms]
    seen = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for (norm, momentum), count in zip(kept, seen, strict=True):
            norm.momentum = momentum
            if count is not None and norm.num_batches_tracked is not None:
                norm.num_batches_tracked.copy_(count)
