"""A layer over a sequence on CUDA by gatecore's kernels, where CuPy is installed.

Manual BPTT runs on views of the tensors' memory, on torch's current stream. torch allocates what is
saved for the backward pass; results and gradients come from CuPy's memory pool.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.cuda import interop
from gatecore.backends.cuda.steps import FusedLayer
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import DTYPES
from gatecore.backends.torch.sequence.numpy_bptt import ArrayAdapter, NumpyBptt
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.cells import Cell


class CuPyKernels(NumpyBptt):
    """Manual BPTT with the kernels of ``backends.cuda``."""

    name, device, traceable, normalizes = "fused", "cuda", False, False

    def _unsupported(self, call: Call) -> str | None:
        x = call.x
        if x.is_cuda and torch.cuda.is_current_stream_capturing():
            return "a CUDA graph is being captured around it"
        (time, batch, _), device = x.shape, x.device.index or 0
        return interop.unsupported(call.cell, (time, batch), DTYPES[x.dtype], device)

    @contextlib.contextmanager
    def adapter(self, call: Call) -> Iterator[ArrayAdapter]:
        x = call.x
        stream = torch.cuda.current_stream(x.device).cuda_stream if x.is_cuda else 0
        context = interop.on_stream(stream, x.device.index or 0)
        with no_autocast(x.device.type), context as engine:
            yield _CuPyAdapter(engine)

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        time, batch, _ = call.x.shape
        return [*interop.saved_shapes(call.cell, (time, batch))]


class _CuPyAdapter(ArrayAdapter):
    """Tensors in a GPU's memory, and CuPy's views of them."""

    layer, device = FusedLayer, "cuda"

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def engine(self, cell: Cell) -> Any:
        return self._engine

    def _view(self, tensor: Tensor) -> Any:
        return interop.view(self._engine, tensor.contiguous())

    def tensor(self, array: Any) -> Tensor:
        return torch.from_dlpack(array)

    def empty(self, like: Tensor, *sizes: int) -> Tensor:
        return like.new_empty(sizes)
