"""A layer over a sequence on CUDA: stepping, captured once for each set of shapes and replayed.

One launch replaces tens of each time step. Arguments and results are copied into and out of the
graph's buffers.
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import Gradients, OperatorImplementation
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.backends.torch.sequence.stepping import PLAIN

_MAX_GRAPHS = 16
_MAX_BYTES = 4 << 30  # each holds memory for the activations of a sequence
_WARM_UP = 2

Function = Callable[[list[Tensor]], list[Tensor]]


@dataclasses.dataclass
class _Graph:
    graph: Any
    inputs: list[Tensor]
    results: list[Tensor]
    nbytes: int  # of the inputs and of all memory that the graph works in

    def replay(self, tensors: list[Tensor]) -> list[Tensor]:
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.copy_(tensor)
        self.graph.replay()
        return [result.clone() for result in self.results]


_GRAPHS: collections.OrderedDict[Any, _Graph] = collections.OrderedDict()
_LOCK = threading.RLock()  # from a graph's inputs to the copies of its results, in stream order


class CudaGraphs(OperatorImplementation):
    """CUDA graphs of :data:`PLAIN`, forward and backward."""

    name, device = "graph", "cuda"

    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        tensors = call.tensors()
        return _run("forward", call, tensors, lambda b: PLAIN.forward(call.with_tensors(b)))

    def backward(
        self, call: Call, saved: Sequence[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        tensors, cotangents = call.tensors(), [*d_outputs, *d_states]
        present = [d is not None for d in cotangents]
        count, split = len(tensors), len(d_outputs)

        def backward(buffers: list[Tensor]) -> list[Tensor]:
            rest = iter(buffers[count:])
            d = [next(rest) if there else None for there in present]
            leaves = (b.detach().requires_grad_(b.is_floating_point()) for b in buffers[:count])
            call_ = call.with_tensors(leaves)
            gradients = PLAIN.backward(call_, [], d[:split], d[split:], wrt_x)
            return [gradient.contiguous().clone() for gradient in gradients]

        tensors += [d for d in cotangents if d is not None]
        return _run(("backward", *present, wrt_x), call, tensors, backward)

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        return []


def release() -> None:
    """Free all graphs and their memory."""
    with _LOCK:
        _GRAPHS.clear()


def _precision() -> Any:
    """torch's switches for float32 products, which a graph keeps as they were at its capture."""
    backends: Any = torch.backends
    return backends.cuda.matmul.fp32_precision, backends.fp32_precision


def _run(kind: Any, call: Call, tensors: list[Tensor], function: Function) -> list[Tensor]:
    with no_autocast("cuda"):
        if torch.cuda.is_current_stream_capturing():
            return function(tensors)  # it becomes part of the graph that the caller captures
        probabilities = tuple(z for z in call.zoneout or () if not isinstance(z, Tensor))
        shapes = tuple((t.shape, t.dtype, t.device) for t in tensors)
        # graphs of two streams would overwrite each other's inputs
        state = torch.cuda.current_stream(tensors[0].device).cuda_stream, _precision()
        key = (kind, call.cell, call.return_cells, probabilities, shapes, state)
        with _LOCK:
            graph = _GRAPHS.pop(key, None) or _capture(tensors, function)
            _GRAPHS[key] = graph
            while len(_GRAPHS) > _MAX_GRAPHS or (
                len(_GRAPHS) > 1 and sum(g.nbytes for g in _GRAPHS.values()) > _MAX_BYTES
            ):
                _GRAPHS.popitem(last=False)
            return graph.replay(tensors)


def _capture(tensors: list[Tensor], function: Function) -> _Graph:
    with torch.cuda.device(tensors[0].device):
        buffers = [t.detach().clone(memory_format=torch.contiguous_format) for t in tensors]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function(buffers)
        torch.cuda.current_stream().wait_stream(side)
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.memory_reserved()
        # other threads may allocate meanwhile, as a DataLoader's that pins memory does; torch's own
        # stream for captures is one of the first device that was captured
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            results = function(buffers)
        nbytes = sum(b.nbytes for b in buffers) + max(torch.cuda.memory_reserved() - before, 0)
        return _Graph(graph, buffers, results, nbytes)
