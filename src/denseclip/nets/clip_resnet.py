"""CLIP's own ResNet as a trainable backbone: the conventional fine-tuning of MaskCLIP, section 3.2."""

import torch.nn.functional as F
from torch import Tensor, nn

from denseclip.clip.towers import ResNetTower
from denseclip.nets.layers import Backbone, init_kaiming
from denseclip.nets.resnet import ResNetShape, stage_rates

POOL = "attnpool."  # the part of the tower that a backbone leaves out


class ClipResNet(Backbone):
    """CLIP's modified ResNet without its attention pool, dilated below output stride 32.

    At every cell that the net of stride 32 has, the dilated one computes the same (for sides that are multiples
    of 32). `shape.stem` and `shape.base` are both CLIP's width. Raises UserError for an output stride other than
    8, 16 and 32.
    """

    def __init__(self, shape: ResNetShape, output_stride: int = 8) -> None:
        super().__init__()
        strides, dilations = stage_rates(output_stride)
        width = shape.base
        self.conv1 = nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = nn.Conv2d(width // 2, width // 2, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width // 2)
        self.conv3 = nn.Conv2d(width // 2, width, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        inputs, reductions = width, [4]
        for i, (count, stride, dilation) in enumerate(zip(shape.blocks, strides, dilations, strict=True)):
            inner, first = width * 2**i, max(1, dilation // 2)
            blocks = [_Block(inputs, inner, first, pools=i > 0, stride=stride, shortcut=True)]
            blocks += [_Block(4 * inner, inner, dilation) for _ in range(count - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            inputs = 4 * inner
            reductions.append(reductions[-1] * stride)
        self.channels = tuple(4 * width * 2**i for i in range(4))
        self.reductions = tuple(reductions[1:])
        init_kaiming(self)

    def load_tower(self, tower: ResNetTower) -> None:
        """Start from a CLIP's image tower; all its weights but the attention pool's are used."""
        state = {n: t for n, t in tower.visual.state_dict().items() if not n.startswith(POOL)}
        self.load_state_dict(state)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> four maps, the sizes rounded down."""
        x = images
        for i in "123":
            x = F.relu(self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x)))
        x = F.avg_pool2d(x, 2)  # (B, width, H/4, W/4)
        maps = []
        for i in "1234":
            x = self.get_submodule(f"layer{i}")(x)
            maps.append(x)
        return maps


def tower_shape(tower: ResNetTower) -> ResNetShape:
    """The `ResNetShape` of a CLIP's image tower."""
    visual = tower.visual
    first, second, third, fourth = (len(visual.get_submodule(f"layer{i}")) for i in (1, 2, 3, 4))
    width = visual.conv3.out_channels
    return ResNetShape((first, second, third, fourth), stem=width, base=width)


class _Block(nn.Module):
    """CLIP's bottleneck: strides are 2x2 means after the 3x3 convolution and before the shortcut's."""

    def __init__(
        self,
        inputs: int,
        inner: int,
        dilation: int,
        *,
        pools: bool = False,
        stride: int = 1,
        shortcut: bool = False,
    ) -> None:
        super().__init__()
        self.pools, self.stride, self.dilation = pools, stride, dilation
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, 4 * inner, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inner)
        self.downsample = (
            nn.Sequential(nn.Conv2d(inputs, 4 * inner, 1, bias=False), nn.BatchNorm2d(4 * inner))
            if shortcut
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, 4 inner, h / stride, w / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(self._pool(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(self._pool(x))))

    def _pool(self, x: Tensor) -> Tensor:
        """The 2x2 mean, if this block has one; without its stride the cells are `dilation` apart."""
        if not self.pools:
            return x
        if self.stride == 2:
            return F.avg_pool2d(x, 2)
        d = self.dilation
        x = F.pad(x, (0, d, 0, d), mode="replicate")
        x = x[..., :-d, :] + x[..., d:, :]
        return (x[..., :-d] + x[..., d:]) / 4
