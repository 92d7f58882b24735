"""Multiply-accumulates and parameters of a model, without weights, data or GPU."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

Size = tuple[int, int]
Shape = tuple[int, ...]
aten = torch.ops.aten
GIGA = 1e9


@dataclass(frozen=True)
class Subject:
    """A model on the meta device, and how it is run.

    run: one picture (1, 3, H, W), on the meta device, through all of it. net: what holds its parameters. text: the
    name of the part of `net` that reads words, "" if there is none.
    """

    net: nn.Module
    run: Callable[[Tensor], object]
    text: str = ""


@dataclass(frozen=True)
class Cost:
    """What one picture costs. macs, params: of all; text_*: of the text encoder among them.

    at_output: `macs` if transposed convolutions are counted at their output's size, as old versions of fvcore did.
    modules: macs by module name.
    """

    size: Size
    macs: int
    params: int
    text_macs: int = 0
    text_params: int = 0
    at_output: int = 0
    modules: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, float]:
        """GMACs and parameters, with and without the text encoder."""
        return {
            "gmacs": self.macs / GIGA,
            "gmacs_without_text": (self.macs - self.text_macs) / GIGA,
            "params": self.params,
            "params_without_text": self.params - self.text_params,
        }


def count(subject: Subject, size: Size) -> Cost:
    """Run one picture of size (H, W) and count.

    torch's own counter sees every operation that is dispatched, so einsum (a batched product), fused or plain
    attention and transposed convolutions are counted right; a multiply and an add are one MAC. To it are added, by
    the conventions of fvcore, which the published figures follow: 2 for an element of a batch norm in inference,
    5 of a layer or group norm, 4 of a bilinear and 1 of a nearest enlargement. Pooling, softmax, activations and
    sums are free.
    """
    tally = _Transposed()
    costs = {**_elementwise(), aten.convolution: tally}
    # Some versions of torch look an operation up by its overload before they take it apart, others by its name.
    costs |= {getattr(name, overload): cost for name, cost in costs.items() for overload in name.overloads()}
    counter = FlopCounterMode(display=False, custom_mapping=costs)
    image = torch.zeros(1, 3, *size, device="meta")
    with torch.no_grad(), counter:
        subject.run(image)
    modules = {
        name: sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name != "Global"
    }
    modules = {name.partition(".")[2]: macs for name, macs in modules.items() if "." in name}
    macs = counter.get_total_flops() // 2
    text = [n for n in (subject.text,) if n]
    return Cost(
        size=size,
        macs=macs,
        params=_parameters(subject.net),
        text_macs=sum(modules.get(name, 0) for name in text),
        text_params=sum(_parameters(subject.net.get_submodule(name)) for name in text),
        at_output=macs + tally.more // 2,
        modules=modules,
    )


class _Transposed:
    """The cost of convolutions; remembers how much more transposed ones were at the output's size."""

    def __init__(self) -> None:
        self.more = 0

    def __call__(
        self,
        x: Shape,
        weight: Shape,
        bias: object,
        stride: object,
        padding: object,
        dilation: object,
        transposed: bool,
        *rest: object,
        out_shape: Shape,
        **options: object,
    ) -> int:
        del bias, stride, padding, dilation, rest, options
        flops = conv_flop_count(list(x), list(weight), list(out_shape), transposed=transposed)
        if transposed:
            self.more += flops * prod(out_shape[2:]) // prod(x[2:]) - flops
        return flops


def _elementwise() -> dict[Any, Callable[..., int]]:
    def of_input(cost: int) -> Callable[..., int]:
        return lambda x, *rest, **options: 2 * cost * prod(x)

    def of_output(cost: int) -> Callable[..., int]:
        return lambda *inputs, out_shape, **options: 2 * cost * prod(out_shape)

    return {
        aten.native_batch_norm: of_input(2),
        aten.native_layer_norm: of_input(5),
        aten.native_group_norm: of_input(5),
        aten.upsample_bilinear2d: of_output(4),
        aten.upsample_nearest2d: of_output(1),
    }


def _parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())
