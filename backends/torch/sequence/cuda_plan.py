"""A sequence's launches on CUDA, of one shape: copies, products, and the steps, perhaps as a graph.

What does not differ from call to call is prepared once; a call sets the addresses of its tensors.
"""

import ctypes
import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.common.layout import layout_of, slot_rows
from gatecore.backends.cuda import copies, cublas, support
from gatecore.backends.cuda.copies import Copies, Matrix
from gatecore.backends.cuda.steps import (
    RECORD,
    GraphBuffers,
    operand_hidden,
    operand_width,
    pack_record,
    rounded,
    saved_shapes,
)
from gatecore.backends.torch.sequence.implementation import DTYPES
from gatecore.cells import Cell

_NOWHERE = ctypes.c_void_p(0)


class Plan:
    """One shape of a cell on one stream, with one precision of products.

    It is used by one thread at a time, while the engine's lock is held, and on its stream alone.
    ``states``, ``d_states``, ``d_state`` and ``weights`` are the addresses of the graph's buffers.
    ``packed`` is the address of what the projection reads: input weights, bias, zeros. It
    multiplies the first ``projected`` columns of an operand: an input and what is at ``tail``, 1
    and zeros. An operand that is saved has ``width`` columns. ``saved`` are the shapes of what a
    forward pass makes, without and with saving for a backward pass. ``scratch`` are the sizes of a
    backward pass's parts: the cotangents of the logits and of a GRU's state candidates, and the
    products of both with the operand; each a multiple of 16 bytes. ``candidate`` are the rows of
    that slot.
    """

    def __init__(
        self, engine: Any, cell: Cell, like: Tensor, stream: int, workspace: Tensor, tf32: bool,
        keep: bool,
    ) -> None:  # fmt: skip
        self._engine, self._cell, self._dtype, self._stream = engine, cell, like.dtype, stream
        self._workspace, self._tf32, self._keep = workspace, tf32, keep
        self._steps = int(like.shape[0]), int(like.shape[1])
        shapes = functools.partial(saved_shapes, cell, self._steps)
        self.saved = shapes(save_for_backward=False), shapes(save_for_backward=True)
        self.projected, self.width = operand_hidden(cell), operand_width(cell)
        with torch.inference_mode(False):  # what is made in that mode stays unusable outside of it
            self._buffers = _graph_buffers(cell, like)
            self._packed = torch.zeros(
                cell.rows, self.projected, dtype=like.dtype, device=like.device
            )
            self._tail = torch.zeros_like(self._packed[0, cell.input_size :])
            self._tail[0] = 1
        arrays, parts = self._buffers.arrays, ("hidden", "cell")[: len(cell.state_names)]
        names = dict(zip(parts, ("state", "cell"), strict=False))
        self.states = {part: arrays[name].data_ptr() for part, name in names.items()}
        self.d_states = {part: arrays[f"d_{part}"].data_ptr() for part in parts}
        self.d_state, self.weights = arrays["d_state"].data_ptr(), self._buffers.weights.data_ptr()
        self.packed, self.tail = self._packed.data_ptr(), self._tail.data_ptr()
        steps = self._steps[0] * self._steps[1]
        separate = cell.hidden_size if cell.separate_candidate else 0
        sizes = [s * rows for s in (steps, self.width) for rows in (cell.rows, separate)]
        self.scratch = [rounded(size) for size in sizes]
        self.candidate = slot_rows(cell)["candidate"]
        forward, backward, self._copy = engine.functions(cell, like.dtype)
        self._functions = {"forward": forward, "backward": backward}
        self._arguments = (ctypes.c_char * RECORD.itemsize)()
        self._table = ctypes.c_void_p(self._buffers.arguments.data_ptr())
        self._products = dict[str, _Product]()
        self._copies = dict[str, tuple[Copies, Callable[[], None]]]()
        self.resume()

    def resume(self) -> None:
        """Make it the plan of the engine's next products."""
        workspace = self._workspace.data_ptr()
        self._engine.product.on(self._stream, workspace, tf32=self._tf32)

    def copies(self, name: str) -> tuple[Copies, Callable[[], None]]:
        """The copies of a launch, by its name in :meth:`_matrices`, and a function that launches.

        Those before the steps also upload the arguments that :meth:`arguments` set.
        """
        pair = self._copies.get(name)
        if pair is None:
            made = Copies(self._matrices(name))
            table = self._table if name in ("forward", "forward, saved", "backward") else _NOWHERE
            launch = self._engine.loader.driver.launcher(
                self._copy, (made.blocks, made.count), copies.THREADS, 0, self._stream,
                (table, self._arguments, made.words),
            )  # fmt: skip
            pair = self._copies[name] = made, launch
        return pair

    def _matrices(self, name: str) -> dict[str, Matrix]:
        """The sizes of the copies before the steps of a direction, or after them."""
        (time, batch), cell, width = self._steps, self._cell, self.width
        inputs, hidden, rows = cell.input_size, cell.hidden_size, cell.rows
        state = Matrix(batch, hidden, hidden, hidden)
        states = dict.fromkeys(self.states, state)
        weight_hh = Matrix(rows, hidden, hidden, hidden)
        if name in ("forward", "forward, saved"):
            stride = width if name == "forward, saved" else self.projected
            return {
                "inputs": Matrix(time * batch, inputs, stride, inputs),
                "tail": Matrix(time * batch, self.projected - inputs, stride, 0),
                "weight_hh": weight_hh, "weight_ih": Matrix(rows, inputs, self.projected, inputs),
                "bias": Matrix(rows, 1, self.projected, 1), **states,
            }  # fmt: skip
        if name == "last":
            return states
        if name == "backward":
            return {"weight_hh": weight_hh, "d_state": state, **states}
        gradients = {"weight_ih": Matrix(rows, inputs, inputs, width),
                     "bias": Matrix(rows, 1, 1, width),
                     "weight_hh": weight_hh._replace(source_stride=width)}  # fmt: skip
        if cell.separate_candidate:  # the candidate's rows are another product's
            parts = {"weight_hh": self.candidate.start, "candidate": hidden,
                     "rest": rows - self.candidate.stop}  # fmt: skip
            gradients |= {k: Matrix(count, hidden, hidden, width) for k, count in parts.items()}
            gradients["bias_n"] = Matrix(hidden, 1, 1, width)
        return gradients | (states if name == "gradients, state" else {})

    def arguments(self, direction: str, fields: Mapping[str, Any]) -> None:
        """Set what differs from call to call: tensors, probabilities, 0 for None and others."""
        time = self._steps[0]
        first = time - 1 if direction == "backward" else 0
        values = {k: v.data_ptr() if isinstance(v, Tensor) else v or 0 for k, v in fields.items()}
        pack_record(self._arguments, time, first, values)

    def multiply(self, name: str, left: int, right: int, out: int) -> None:
        """One of the products over all steps, by its name in :meth:`_layouts`, of addresses."""
        product = self._products.get(name)
        if product is None:
            layout = self._layouts()[name]
            product = _Product(self._engine.product, layout, DTYPES[self._dtype])
            self._products[name] = product
        product(left, right, out)

    def _layouts(self) -> dict[str, list[tuple[tuple[int, int], tuple[int, int]]]]:
        """The shapes and strides of each product's operands and of its result."""
        cell, steps = self._cell, self._steps[0] * self._steps[1]
        rows, inputs, hidden, width = cell.rows, cell.input_size, cell.hidden_size, self.width
        logits, operand = _rows(steps, rows), _rows(steps, width)
        weights = _transposed(_rows(rows, self.projected))
        return {
            "forward": [_rows(steps, self.projected), weights, logits],
            "forward, saved": [((steps, self.projected), (width, 1)), weights, logits],
            "weights": [_transposed(logits), operand, _rows(rows, width)],
            "candidates": [_transposed(_rows(steps, hidden)), operand, _rows(hidden, width)],
            "inputs": [logits, _rows(rows, inputs), _rows(steps, inputs)],
        }

    def run(self, direction: str) -> None:
        """All steps: launched one by one, or as the graph of an earlier call."""
        if self._keep:
            self._engine.recorder.run(
                self._buffers.graphs, direction,
                functools.partial(self._enqueue, direction, self._stream),
                functools.partial(self._record, direction),
            )  # fmt: skip
        else:
            self._enqueue(direction, self._stream)

    def _record(self, direction: str) -> Callable[[], None]:
        try:
            replay: Callable[[], None] = self._engine.device.record(
                functools.partial(self._enqueue, direction)
            )
            return replay
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

    def __call__(self, left: int, right: int, out: int) -> None:
        a, b, c = self._addresses
        a.value, b.value, c.value = left, right, out
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
