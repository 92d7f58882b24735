"""The image side of a model as CUDA graphs: one launch a batch where there were hundreds."""

import logging
from collections import Counter, OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denseclip.segment.attention import DenseFeatures
from denseclip.segment.scoring import Encoder

SIGHTINGS = 3  # calls of one shape until it is worth a graph
MOST = 16  # graphs that are kept
WARM_UPS = 3  # calls before a capture, in which libraries choose their algorithms and make their buffers

log = logging.getLogger("denseclip")


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

    def encode(self, images: Tensor, *, keys: bool) -> DenseFeatures:
        """As the encoder's own."""
        if self._off:
            return self.encoder.encode(images, keys=keys)
        shape = (*images.shape, keys)
        with self._lock:
            known = self._graphs.get(shape)
            if known is None:
                self._seen[shape] += 1
                if self._seen[shape] < SIGHTINGS:
                    return self.encoder.encode(images, keys=keys)
                known = self._captured(shape, images, keys=keys)
                if known is None:
                    return self.encoder.encode(images, keys=keys)
            self._graphs.move_to_end(shape)
            known.inputs.copy_(images)
            known.graph.replay()
            return known.outputs.clone()

    def _captured(self, shape: tuple[Any, ...], images: Tensor, *, keys: bool) -> _Graph | None:
        inputs = torch.empty_like(images)
        inputs.copy_(images)
        beside = torch.cuda.Stream(images.device)
        beside.wait_stream(torch.cuda.current_stream(images.device))
        try:
            with torch.backends.cudnn.flags(benchmark=True, allow_tf32=torch.backends.cudnn.allow_tf32):
                with torch.cuda.stream(beside):
                    for _ in range(WARM_UPS):
                        self.encoder.encode(inputs, keys=keys)
                torch.cuda.current_stream(images.device).wait_stream(beside)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                    outputs = self.encoder.encode(inputs, keys=keys)
        except RuntimeError as error:
            log.info("no CUDA graph for %s (%s); it runs as it is", shape, str(error).splitlines()[0])
            self._off = True
            self._graphs.clear()
            return None
        self._graphs[shape] = _Graph(graph, inputs, outputs)
        while len(self._graphs) > MOST:
            self._graphs.popitem(last=False)
        return self._graphs[shape]
