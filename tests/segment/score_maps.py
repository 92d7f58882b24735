"""Score maps of every temper, for the tests of decoding."""

import torch
import torch.nn.functional as F

KINDS = ("noise", "smooth", "blocks", "denoised", "equal", "twins", "large")


def score_map(kind, shape, seed=0):
    """(N, K, h, w) float32. noise: worst case; smooth: as a model's; blocks: saturated soft-max, full of ties;
    denoised: with removed classes; equal: all tied; twins: every class twice; large: unnormalized sums."""
    n, k, h, w = shape
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(shape, generator=generator)
    if kind == "noise":
        return noise
    if kind == "equal":
        return torch.full(shape, 0.25)
    coarse = torch.randn(n, k, max(1, h // 3), max(1, w // 3), generator=generator)
    smooth = F.interpolate(coarse, size=(h, w), mode="bicubic") * 0.05 + noise * 0.005
    if kind == "blocks":
        return F.one_hot(smooth.argmax(1), k).permute(0, 3, 1, 2).float()
    if kind == "denoised":
        return smooth.masked_fill(torch.rand(n, k, 1, 1, generator=generator) < 0.6, -100.0)
    if kind == "twins":
        return smooth[:, torch.arange(k) // 2]
    return smooth * 1e4 if kind == "large" else smooth
