"""The image side of a model as CUDA graphs: one launch a batch where there were hundreds."""

import logging
from collections import Counter, OrderedDict
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denseclip.segment.attention import DenseFeatures
from denseclip.segment.interface import Encoder

SIGHTINGS = 3  # calls of one shape until it is worth a graph
MOST = 16  # graphs that are kept
WARM_UPS = 3  # calls before a capture, in which libraries choose their algorithms and make their buffers

log = logging.getLogger("denseclip")


def full_precision(*, benchmark: bool = False) -> AbstractContextManager[None]:
    """Convolutions of float32 in float32. benchmark: their algorithms are chosen by trying."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=benchmark, allow_tf32=False)


class _Graph(NamedTuple):
    """A captured call."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensor
    outputs: DenseFeatures


class GraphedEncoder:
    """An encoder on a GPU. Shapes that come again are captured and replayed; what cannot be captured runs as it is.

    Calls may come from several threads.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self._graphs: OrderedDict[tuple[Any, ...], _Graph] = OrderedDict()
        self._seen: Counter[tuple[Any, ...]] = Counter()
        self._lock = Lock()
        self._off = False

    def encode(self, images: Tensor, **options: bool) -> DenseFeatures:
        """As the encoder's own; float32 is not rounded to TF32 on the way."""
        with full_precision():
            return self.encoder.encode(images, **options) if self._off else self._encode(images, options)

    def _encode(self, images: Tensor, options: dict[str, bool]) -> DenseFeatures:
        shape = (*images.shape, *options.items())
        with self._lock:
            known = self._graphs.get(shape)
            if known is None:
                self._seen[shape] += 1
                if self._seen[shape] < SIGHTINGS:
                    return self.encoder.encode(images, **options)
                known = self._captured(shape, images, options)
                if known is None:
                    return self.encoder.encode(images, **options)
            self._graphs.move_to_end(shape)
            known.inputs.copy_(images)
            known.graph.replay()
            return known.outputs.clone()

    def _captured(self, shape: tuple[Any, ...], images: Tensor, options: dict[str, bool]) -> _Graph | None:
        inputs = torch.empty_like(images)
        inputs.copy_(images)
        beside = torch.cuda.Stream(images.device)
        beside.wait_stream(torch.cuda.current_stream(images.device))
        try:
            with full_precision(benchmark=True):
                with torch.cuda.stream(beside):
                    for _ in range(WARM_UPS):
                        self.encoder.encode(inputs, **options)
                torch.cuda.current_stream(images.device).wait_stream(beside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    outputs = self.encoder.encode(inputs, **options)
        except RuntimeError as error:
            log.info("no CUDA graph for %s (%s); it runs as it is", shape, str(error).splitlines()[0])
            self._off = True
            self._graphs.clear()
            return None
        self._graphs[shape] = _Graph(graph, inputs, outputs)
        while len(self._graphs) > MOST:
            self._graphs.popitem(last=False)
        return self._graphs[shape]
