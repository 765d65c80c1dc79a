"""The sequence operation on CUDA by gatecore's own kernels, where CuPy is installed.

The explicit driver runs on views of the tensors' memory, on torch's current stream. Arguments and
results are not copied, and the allocator is torch's.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.cuda import interop
from gatecore.backends.torch.sequence import numpy_bptt
from gatecore.backends.torch.sequence.arguments import Arguments
from gatecore.cells import Cell


def reason(cell: Cell, x: Tensor) -> str | None:
    """Why the kernels can't run this cell over x (time, batch, input); None where they can."""
    if x.is_cuda and torch.cuda.is_current_stream_capturing():
        return "a CUDA graph is being captured around it"
    dtype = str(x.dtype).removeprefix("torch.")
    return interop.reason(cell, (x.shape[0], x.shape[1]), dtype, x.device.index or 0)


def forward(given: Arguments, keep: bool) -> list[Tensor]:
    """Outputs and final states as in ``sequence``, then what backward reads."""
    with _place(given) as place:
        return numpy_bptt.forward(given, keep, place)


def backward(
    given: Arguments,
    saved: list[Tensor],
    d_outputs: list[Tensor | None],
    d_states: list[Tensor | None],
    wrt_x: bool,
) -> list[Tensor]:
    """Cotangents of x (where wanted), the parameters and the states."""
    with _place(given) as place:
        return numpy_bptt.backward(given, saved, d_outputs, d_states, wrt_x, place)


class _Gpu(numpy_bptt.Place):
    """Tensors in a GPU's memory, and CuPy's views of them."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def engine(self, cell: Cell) -> Any:
        return self._engine

    def array(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return interop.view(self._engine, value.detach().contiguous())

    def tensor(self, array: Any) -> Tensor:
        return torch.from_dlpack(array)

    def take(self, like: Tensor, *sizes: int) -> Tensor:
        return like.new_empty(sizes)


@contextlib.contextmanager
def _place(given: Arguments) -> Iterator[_Gpu]:
    x = given.x
    stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
    with interop.on_stream(stream, x.device.index or 0, "fused") as engine:
        yield _Gpu(engine)
