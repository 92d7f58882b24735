"""Learning rates by step."""

from collections.abc import Sequence


def poly_lr(
    iteration: int,
    max_iterations: int,
    base: float,
    *,
    power: float = 0.9,
    min_lr: float = 1e-4,
    warmup: int = 0,
    warmup_ratio: float = 1e-6,
) -> float:
    """Polynomial decay from `base` to `min_lr`, after a linear warm-up.

    lr = (base - min_lr) (1 - iteration / max_iterations)^power + min_lr, times
    1 - (1 - iteration / warmup) (1 - warmup_ratio) in the first `warmup` iterations. The defaults are MaskCLIP+'s
    (section d.3); DenseCLIP has min_lr 1e-6 and warmup 1500 (section 4.1) and calls this once a parameter group,
    with the group's own `base`.

    iteration: optimiser steps already made, so 0 for the first.
    """
    left = max(0.0, 1 - iteration / max_iterations)
    return ((base - min_lr) * left**power + min_lr) * _warm(iteration, warmup, warmup_ratio)


def step_lr(
    iteration: int,
    base: float,
    drops: Sequence[int],
    *,
    factor: float = 0.1,
    warmup: int = 0,
    warmup_ratio: float = 1e-3,
) -> float:
    """`base`, times `factor` for each of `drops` (in iterations) that lies behind; denseclip section 5.

    The same warm-up as `poly_lr`. iteration: optimiser steps already made.
    """
    passed = sum(iteration >= drop for drop in drops)
    return base * factor**passed * _warm(iteration, warmup, warmup_ratio)


def _warm(iteration: int, warmup: int, ratio: float) -> float:
    return 1 - (1 - iteration / warmup) * (1 - ratio) if iteration < warmup else 1.0
