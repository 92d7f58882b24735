"""Batch normalisation over the batches of all processes, where torch's own needs a GPU."""

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor, nn


class SyncNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics come from all processes of the default group (any back end)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same; every process must have the same number of elements a channel."""
        if not self.training or not dist.is_initialized():
            return super().forward(x)
        count = x.numel() // x.shape[1] * dist.get_world_size()
        sums = torch.stack([x.float().sum((0, 2, 3)), x.float().square().sum((0, 2, 3))])  # (2, C)
        mean, square = dist_nn.all_reduce(sums) / count
        var = (square - mean.square()).clamp_min(0)
        self._remember(mean.detach(), var.detach() * count / max(count - 1, 1))
        scale = self.weight * (var + self.eps).rsqrt()
        return x * scale[:, None, None].to(x.dtype) + (self.bias - mean * scale)[:, None, None].to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        assert self.momentum is not None
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(var, self.momentum)


def synchronised(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with all its batch norms over processes; names and weights stay."""
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncNorm
    return model
