"""The sequence operation on CUDA: the plain path captured once for each set of shapes, replayed.

One launch replaces the tens of launches of each time step. Arguments are copied into the graph's
own memory and results out of it, so that what a call returns is the caller's.
"""

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch.sequence import recompute
from gatecore.backends.torch.sequence.arguments import Arguments

_KEPT = 16  # graphs kept for reuse; each holds memory for the activations of a sequence
_WARM_UP = 2


@dataclasses.dataclass
class _Graph:
    graph: Any
    inputs: list[Tensor]
    results: list[Tensor]

    def replay(self, tensors: list[Tensor]) -> list[Tensor]:
        for own, given in zip(self.inputs, tensors, strict=True):
            own.copy_(given)
        self.graph.replay()
        return [result.clone() for result in self.results]


_GRAPHS: collections.OrderedDict[Any, _Graph] = collections.OrderedDict()


def forward(given: Arguments) -> list[Tensor]:
    """Outputs and final states."""
    tensors, rebuild = given.split()
    return _run("forward", given, tensors, lambda own: recompute.forward(rebuild(own)))


def backward(
    given: Arguments, d_outputs: list[Tensor | None], d_states: list[Tensor | None], wrt_x: bool
) -> list[Tensor]:
    """Cotangents of x (where wanted), the parameters and the states."""
    tensors, rebuild = given.split()
    cotangents = [*d_outputs, *d_states]
    there = [c is not None for c in cotangents]
    count, split = len(tensors), len(d_outputs)

    def pull(own: list[Tensor]) -> list[Tensor]:
        rest = iter(own[count:])
        d = [next(rest) if t else None for t in there]
        return recompute.backward(rebuild(own[:count]), d[:split], d[split:], wrt_x)

    present = [c for c in cotangents if c is not None]
    return _run(("backward", *there, wrt_x), given, [*tensors, *present], pull)


def release() -> None:
    """Free all graphs and their memory."""
    _GRAPHS.clear()


def _run(
    kind: Any,
    given: Arguments,
    tensors: list[Tensor],
    function: Callable[[list[Tensor]], list[Tensor]],
) -> list[Tensor]:
    if torch.cuda.is_current_stream_capturing():
        return function(tensors)  # it becomes part of the graph that the caller captures
    numbers = tuple(a for a in given.zoneout or () if not isinstance(a, Tensor))
    signature = tuple((t.shape, t.dtype, t.device) for t in tensors)
    key = (kind, given.cell.core, given.cell.mechanism, given.cells, numbers, signature)
    graph = _GRAPHS.pop(key, None) or _capture(tensors, function)
    _GRAPHS[key] = graph
    while len(_GRAPHS) > _KEPT:
        _GRAPHS.popitem(last=False)
    return graph.replay(tensors)


def _capture(tensors: list[Tensor], function: Callable[[list[Tensor]], list[Tensor]]) -> _Graph:
    with torch.cuda.device(tensors[0].device):
        own = [t.detach().clone(memory_format=torch.contiguous_format) for t in tensors]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                function(own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = function(own)
        return _Graph(graph, own, results)
