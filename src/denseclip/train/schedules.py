"""Learning rates by step."""


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
    rate = (base - min_lr) * left**power + min_lr
    if iteration < warmup:
        rate *= 1 - (1 - iteration / warmup) * (1 - warmup_ratio)
    return rate
