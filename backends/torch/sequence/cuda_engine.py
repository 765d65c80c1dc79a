"""The CUDA kernels on torch's memory: whole sequences, launched step by step or as one graph.

An :class:`Engine` belongs to a GPU. Everything is enqueued on torch's current stream of that GPU,
and all memory is torch's. A :class:`Plan` holds what stays in place between calls of a shape, and
is used on one stream alone. Within somebody else's capture, or in the registered operator, which
torch.compile may capture, plans are made anew and nothing is recorded.
"""

import ctypes
import functools
import threading
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import cublas, source, support
from gatecore.backends.cuda.loader import Loader
from gatecore.backends.cuda.recording import Recent, Recorder
from gatecore.backends.cuda.steps import (
    RECORD,
    GraphBuffers,
    fill_record,
    operand_hidden,
    operand_width,
    saved_shapes,
)
from gatecore.backends.torch.sequence.implementation import DTYPES
from gatecore.cells import Cell


class Engine:
    """The kernels on one of torch's GPUs; OSError where their libraries are missing.

    ``lock`` is held, and ``device`` is the current one, while a plan is used.
    """

    def __init__(self, device: Any) -> None:
        self.device, self.lock = device, threading.RLock()
        self.loader = Loader(device.capability(), device.cuda_version())
        self.product = cublas.Product(matrix)
        self.recorder, self._plans = Recorder(), Recent[Plan]()
        self._workspaces: dict[int, Tensor] = {}

    def plan(self, cell: Cell, like: Tensor, keep: bool) -> "Plan":
        """The plan for sequences of the shape (time, batch, …) of ``like`` on the current stream.

        It is made anew within a capture, and without ``keep``.
        """
        stream, tf32 = self.device.stream(), self.device.tf32()
        if not keep or self.device.capturing():
            return Plan(self, cell, like, stream, _workspace(like), tf32, keep=False)
        time, batch, _ = like.shape
        key = (stream, tf32, cell, time, batch, like.dtype)
        if stream not in self._workspaces:
            self._workspaces[stream] = _workspace(like)
        workspace = self._workspaces[stream]
        make = functools.partial(Plan, self, cell, like, stream, workspace, tf32, keep=True)
        plan = self._plans.obtain(key, make)
        plan.resume()
        return plan

    def functions(self, cell: Cell, dtype: torch.dtype) -> Any:
        """The forward and the backward kernel, and that which uploads their arguments."""
        return self.loader.functions(_names(cell, dtype))

    def loaded(self, cell: Cell, dtype: torch.dtype) -> bool:
        """Whether the kernels of a cell have been loaded."""
        return self.loader.loaded(_names(cell, dtype))

    def release(self) -> None:
        """Free all plans, with their buffers and graphs."""
        with self.lock:
            self._plans.clear()
            self._workspaces.clear()


class Plan:
    """One shape of a cell on one stream, with one precision of products.

    ``arrays`` are the graph buffers by name, and ``weights`` is that of the recurrent weights.
    ``states`` are those of the state, and ``last`` has a leading axis. ``packed`` is what the
    projection reads: ``input_weights``, ``bias``, zeros. It multiplies the first ``projected``
    columns of an operand: an input and ``tail``, which is 1, zeros. ``saved`` are the shapes of
    what a forward pass makes, without and with saving for a backward pass. ``columns`` are the
    widths of the gradients of the input weights, the bias, nothing, the recurrent weights, nothing,
    in one matrix.
    """

    def __init__(
        self, engine: Engine, cell: Cell, like: Tensor, stream: int, workspace: Tensor, tf32: bool,
        keep: bool,
    ) -> None:  # fmt: skip
        self._engine, self._cell, self._dtype, self._stream = engine, cell, like.dtype, stream
        self._workspace, self._tf32, self._keep = workspace, tf32, keep
        self._steps = int(like.shape[0]), int(like.shape[1])
        shapes = functools.partial(saved_shapes, cell, self._steps)
        self.saved = shapes(save_for_backward=False), shapes(save_for_backward=True)
        projected = self.projected = operand_hidden(cell)
        with torch.inference_mode(False):  # what is made in that mode stays unusable outside of it
            self._buffers = _graph_buffers(cell, like)
            packed = torch.zeros(cell.rows, projected, dtype=like.dtype, device=like.device)
            tail = torch.zeros_like(packed[0, cell.input_size :])
            tail[0] = 1
            self.tail = tail.expand(*self._steps, -1)
            self.arrays, self.weights = self._buffers.arrays, self._buffers.weights
            self.states = [self.arrays[name] for name in ("state", "cell")[: len(cell.state_names)]]
            self.last = [state.unsqueeze(0) for state in self.states]
            self.input_weights, self.bias = packed[:, : cell.input_size], packed[:, cell.input_size]
        first = projected + cell.hidden_size
        self.columns = [cell.input_size, 1, projected - cell.input_size - 1, cell.hidden_size,
                        operand_width(cell) - first]  # fmt: skip
        forward, backward, upload = engine.functions(cell, like.dtype)
        self._functions = {"forward": forward, "backward": backward}
        self._arguments = (ctypes.c_char * RECORD.itemsize)()
        self._words = np.frombuffer(memoryview(self._arguments), np.int64)
        self._table = ctypes.c_void_p(self._buffers.arguments.data_ptr())
        self._upload = engine.loader.driver.launcher(
            upload, (1, 1), 1, 0, stream, (self._table, self._arguments)
        )
        self.packed, self._products = packed, dict[str, _Product]()
        self.resume()

    def resume(self) -> None:
        """Make it the plan of the engine's next products."""
        workspace = self._workspace.data_ptr()
        self._engine.product.on(self._stream, workspace, tf32=self._tf32)

    def multiply(self, name: str, left: Tensor, right: Tensor, out: Tensor) -> None:
        """One of the products over all steps, by its name in :meth:`_layouts`."""
        product = self._products.get(name)
        if product is None:
            layout = self._layouts()[name]
            product = _Product(self._engine.product, layout, DTYPES[self._dtype])
            self._products[name] = product
        product(left, right, out)

    def _layouts(self) -> dict[str, list[tuple[tuple[int, int], tuple[int, int]]]]:
        """The shapes and strides of each product's operands and of its result."""
        cell, steps = self._cell, self._steps[0] * self._steps[1]
        (projected, _), (width, _) = ((s[-1] for s in shapes[:2]) for shapes in self.saved)
        rows, inputs, hidden = cell.rows, cell.input_size, cell.hidden_size
        logits, operand = _rows(steps, rows), _rows(steps, width)
        weights = _transposed(_rows(rows, projected))
        return {
            "project": [_rows(steps, projected), weights, logits],
            "project, saved": [((steps, projected), (width, 1)), weights, logits],
            "weights": [_transposed(logits), operand, _rows(rows, width)],
            "candidates": [_transposed(_rows(steps, hidden)), operand, _rows(hidden, width)],
            "inputs": [logits, _rows(rows, inputs), _rows(steps, inputs)],
        }

    def run(self, direction: str, fields: Mapping[str, Any]) -> None:
        """All steps, with the arguments that differ from call to call."""
        time = self._steps[0]
        first = time - 1 if direction == "backward" else 0
        addresses = {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in fields.items()}
        fill_record(self._words, time, first, addresses)
        self._upload()
        steps = functools.partial(self._enqueue, direction, self._stream)
        if self._keep:
            record = functools.partial(self._record, direction)
            self._engine.recorder.run(self._buffers.graphs, direction, steps, record)
        else:
            steps()

    def _record(self, direction: str) -> Callable[[], None]:
        try:
            return self._engine.device.record(functools.partial(self._enqueue, direction))
        finally:
            self.resume()

    def _enqueue(self, direction: str, stream: int) -> None:
        """Every step on a stream: one product and one launch."""
        buffers, number = self._buffers, ctypes.c_longlong()
        geometry = support.geometry(buffers.layout, buffers.batch, buffers.dtype.itemsize)
        shape = (ctypes.c_char * buffers.shape.nbytes).from_buffer_copy(buffers.shape.tobytes())
        launch = self._engine.loader.driver.launcher(
            self._functions[direction], geometry.grid, geometry.threads, geometry.shared, stream,
            (shape, self._table, number),
        )  # fmt: skip
        multiply = self._engine.product
        multiply.on(stream, self._workspace.data_ptr(), tf32=self._tf32)
        product = multiply.prepare(*map(matrix, buffers.products[direction]))
        first, second = (product, launch) if direction == "forward" else (launch, product)
        for step in range(self._steps[0]):
            number.value = step
            first()
            second()


class _Product:
    """A product of shapes and strides that are fixed, of contiguous memory wherever it is."""

    def __init__(self, product: cublas.Product, layouts: Any, dtype: str) -> None:
        self._addresses = tuple(ctypes.c_void_p() for _ in layouts)
        pairs = zip(self._addresses, layouts, strict=True)
        self._multiply = product.prepare(
            *(cublas.Matrix(address, shape, strides, dtype) for address, (shape, strides) in pairs)
        )

    def __call__(self, *tensors: Tensor) -> None:
        for address, tensor in zip(self._addresses, tensors, strict=True):
            address.value = tensor.data_ptr()
        self._multiply()


def _rows(count: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The shape and strides of a contiguous matrix."""
    return (count, width), (width, 1)


def _transposed(layout: Any) -> Any:
    return tuple(pair[::-1] for pair in layout)


def matrix(tensor: Tensor) -> cublas.Matrix:
    """A tensor of two axes as an operand of a product."""
    shape: Any = tensor.shape
    strides: Any = tensor.stride()
    return cublas.Matrix(tensor.data_ptr(), shape, strides, DTYPES[tensor.dtype])


def _graph_buffers(cell: Cell, like: Tensor) -> GraphBuffers:
    def empty(shape: Any, dtype: Any) -> Tensor:
        return torch.empty(shape, dtype=_DTYPES[np.dtype(dtype)], device=like.device)

    launcher: Any = SimpleNamespace(xp=SimpleNamespace(empty=empty), pointer=Tensor.data_ptr)
    steps = int(like.shape[0]), int(like.shape[1])
    return GraphBuffers(launcher, layout_of(cell), steps, np.dtype(DTYPES[like.dtype]))


_DTYPES = {np.dtype(name): dtype for dtype, name in DTYPES.items()} | {
    np.dtype(np.uint8): torch.uint8
}


def _workspace(like: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty(cublas.WORKSPACE, dtype=torch.uint8, device=like.device)


@functools.lru_cache(maxsize=256)
def _names(cell: Cell, dtype: torch.dtype) -> tuple[str, ...]:
    return source.names(layout_of(cell), DTYPES[dtype])
