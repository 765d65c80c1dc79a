"""Whole sequences by the fused kernels: one product and one launch a time step.

The arguments of a kernel are two records. That of a shape holds the sizes, the columns of the slots
and the buffers that stay in place between calls: a recorded graph has it by value. That of a call
holds the addresses of its arrays, and lies in the GPU's memory, where it is uploaded before each
call. So one graph serves every call of a shape.
"""

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from gatecore.algebra import Gate
from gatecore.backends.common.buffer_pool import BufferPool
from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.layout import Layout, layout_of, slot_rows
from gatecore.backends.cuda import support
from gatecore.backends.numpy.bptt import Call, Engine, Gradients, Layer, States
from gatecore.cells import Cell

Array = Any
Kernel = Callable[["GraphBuffers", int], None]  # launch 0, 1, … of a sequence, on a shape's buffers
Body = Callable[[Callable[..., Any]], None]  # all steps, with a function for the products

# `Shape` of sequence.cuh
SIZES = ("batch", "hidden", "rows", "downsize", "master_width", "ordered_width", "operand_width",
         "operand_hidden")  # fmt: skip
SLOTS = ("candidate", "forget", "input", "refine", "refine_input", "output", "reset",
         "master_forget", "master_input")  # fmt: skip
BUFFERS = ("state", "cell", "recurrent", "gates", "d_hidden", "d_cell", "d_recurrent", "d_state",
           "d_main")  # fmt: skip
SHAPE = np.dtype([(name, np.int64) for name in (*SIZES, *SLOTS, *BUFFERS)])

# `Sequence` of sequence.cuh
PROBABILITIES = ("zoneout_cell", "zoneout_hidden")
FIELDS = ("time", "first", "logits", "ordered", "operand", "saved_cell", "state_candidate",
          "resets", "zoneout_mask_cell", "zoneout_mask_hidden", *PROBABILITIES, "bias_n",
          "output_hidden", "output_cell", "d_output_hidden", "d_output_cell", "d_logits",
          "d_state_candidate")  # fmt: skip
RECORD = np.dtype([(n, np.float64 if n in PROBABILITIES else np.int64) for n in FIELDS])
_NOTHING: dict[str, Any] = dict.fromkeys(FIELDS, 0)
_PACKED = struct.Struct("=" + "".join("d" if name in PROBABILITIES else "q" for name in FIELDS))

_ALIGNMENT = 4  # numbers: of float32, the 16 bytes that a GPU's matrix products read at once


def record_of(pointer: Any, time: int, first: int, **fields: Any) -> np.ndarray:
    """The record (1,) of a call of ``time`` steps that begins with the step ``first``.

    ``fields`` are arrays and probabilities by name; others are null and 0. ValueError if an array
    is not contiguous.
    """
    for name, value in fields.items():
        if hasattr(value, "flags"):
            if not value.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous, got strides {value.strides}")
            fields[name] = pointer(value)
    record = np.zeros(1, RECORD)
    pack_record(record.view(np.uint8), time, first, {k: v or 0 for k, v in fields.items()})
    return record


def pack_record(memory: Any, time: int, first: int, fields: Mapping[str, Any]) -> None:
    """Write the record of a call: addresses and probabilities by name, 0 for others."""
    values = _NOTHING | {"time": time, "first": first, **fields}
    _PACKED.pack_into(memory, 0, *values.values())


def rounded(width: int) -> int:
    """The next multiple of 4 numbers."""
    return -(-width // _ALIGNMENT) * _ALIGNMENT


def operand_hidden(cell: Cell) -> int:
    """The first column of the hidden state in a row of the operand, (input | 1 | 0s | state | 0s).

    The projection multiplies the columns before it by the input weights and the bias; one product
    with the whole operand is the gradient of all weights.
    """
    return rounded(cell.input_size + 1)


def operand_width(cell: Cell) -> int:
    """The columns of the operand of a pass that saves its states."""
    return rounded(operand_hidden(cell) + cell.hidden_size)


def saved_shapes(cell: Cell, steps: tuple[int, int], *,
                 save_for_backward: bool = True) -> list[tuple[int, int, int]]:  # fmt: skip
    """The shapes (time, batch, width) of what a ``FusedLayer`` acquires, in order.

    Operand, logits, ordered gates, the LSTM's cell states, the GRU's state candidates. Without
    ``save_for_backward`` the first two, with the operand's columns of the input alone.
    """
    layout = layout_of(cell)
    if not save_for_backward:
        return [(*steps, operand_hidden(cell)), (*steps, cell.rows)]
    widths = [operand_width(cell), cell.rows]
    widths += [3 * layout.ordered_width] * bool(layout.ordered)
    widths += [cell.hidden_size] * (cell.core in ("lstm", "gru"))
    return [(*steps, width) for width in widths]


class Launcher(Protocol):
    """Runs the kernels: on a GPU (``launch``), or in the tests by the host's C++ compiler."""

    xp: Any
    lock: AbstractContextManager[Any]  # of all buffers; a thread may take it again

    def pointer(self, array: Array) -> int:
        """The address of an array's memory."""

    def upload(self, record: np.ndarray, buffers: "GraphBuffers") -> None:
        """Copy a call's record to ``buffers.arguments``, in the order of the stream."""

    def kernels(self, buffers: "GraphBuffers") -> Sequence[Kernel]:
        """The forward and the backward kernel for a shape."""

    def buffers(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> "GraphBuffers":
        """The buffers for this shape."""

    def replay(self, buffers: "GraphBuffers", direction: str, body: Body) -> None:
        """Do the work of ``body``: call it, or launch the graph recorded of an earlier call."""


class GraphBuffers:
    """Arrays that stay in place between calls of one shape, and the graphs recorded on them.

    ``shape`` is the record (1,) of the shape, and ``arguments`` the memory of a call's record.
    """

    def __init__(self, launcher: Launcher, layout: Layout, steps: tuple[int, int],
                 dtype: Any) -> None:  # fmt: skip
        cell, batch, xp = layout.cell, steps[1], launcher.xp
        self.layout, self.batch, self.dtype = layout, batch, np.dtype(dtype)
        hidden, rows, masters = cell.hidden_size, cell.rows, layout.mechanism.auxiliary == "master"
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("state", "cell", "d_hidden", "d_cell", "d_state"), (batch, hidden)),
            **dict.fromkeys(("recurrent", "d_recurrent"), (batch, rows)),
            "gates": (batch, 3, layout.ordered_width),
            "d_main": (batch, 2, hidden),
        }
        self.arrays = {name: xp.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        self.weights = xp.empty((rows, hidden), dtype=dtype)
        self.arguments = xp.empty(RECORD.itemsize, dtype=np.uint8)
        downsize = layout.mechanism.downsize if masters else 1
        sizes = (batch, hidden, rows, downsize, hidden // downsize, layout.ordered_width,
                 operand_width(cell), operand_hidden(cell))  # fmt: skip
        first = slot_rows(cell)
        slots = (first.get(slot, slice(-1, 0)).start for slot in SLOTS)
        self.shape = np.zeros(1, SHAPE)
        self.shape[0] = (*sizes, *slots, *(launcher.pointer(self.arrays[b]) for b in BUFFERS))
        self.graphs: dict[str, Any] = {}
        self.products = {  # (a, b, out) of a step's a @ b
            "forward": (self.arrays["state"], self.weights.T, self.arrays["recurrent"]),
            "backward": (self.arrays["d_recurrent"], self.weights, self.arrays["d_state"]),
        }
        self.product: Any = None  # what computes them in a recorded graph, while there is one


class FusedLayer:
    """One layer over one sequence, a time step being one product and one kernel.

    The interface of ``numpy.bptt.Layer``. ``acquire`` is called once for each of ``saved_shapes``,
    in order.
    """

    name = "fused"

    @staticmethod
    def unsupported(call: Call, /) -> str | None:
        """Why the kernels cannot run ``call``; None if they can."""
        engine: Any = call.engine  # a KernelEngine
        return engine.device_unsupported or support.unsupported(call.cell, call.steps, call.dtype)

    def __init__(self, call: Call, acquire: Any) -> None:
        engine: Any = call.engine
        self.call, self.cell, self.params = call, call.cell, call.params
        self.launcher, self.xp, self.layout = engine.launcher, engine.xp, layout_of(call.cell)
        self.resets = None if call.resets is None else call.resets.copy()
        cell, save = call.cell, call.save_for_backward
        shapes = saved_shapes(cell, call.steps, save_for_backward=save)
        self.operand, self.logits, *rest = (acquire(shape[-1]) for shape in shapes)
        saved = iter(rest)
        ordered = next(saved) if save and self.layout.ordered else None
        name = {"lstm": "saved_cell", "gru": "state_candidate"}.get(cell.core)
        self._fields = {
            "logits": self.logits, "ordered": ordered, "resets": self.resets,
            "operand": self.operand if save else None, "bias_n": self.params.get("bias_n"),
            **{name: array for name, array in zip([name], saved, strict=False) if name},
            **{name: self._contiguous(z) for name, z in zoneout_fields(call.zoneout).items()},
        }  # fmt: skip

    def forward(self, x: Array, initial: States) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The outputs of all steps from x (time, batch, input), and the parts of the last state."""
        xp, call, inputs = self.xp, self.call, self.cell.input_size
        operand = self.operand[..., : operand_hidden(self.cell)]
        operand[..., :inputs] = x
        operand[..., inputs] = 1
        operand[..., inputs + 1 :] = 0
        weights = xp.zeros((operand.shape[-1], self.cell.rows), dtype=call.dtype)
        weights[:inputs] = self.params["weight_ih"].T
        weights[inputs] = self.params["bias"]
        xp.matmul(operand.reshape(-1, len(weights)), weights, out=_flat(self.logits))
        outputs = tuple(
            xp.empty(call.output_shape, dtype=call.dtype) for _ in range(1 + call.return_cells)
        )
        with self.launcher.lock:
            buffers = self._buffers()
            states = self._states(buffers, "state", "cell")
            for array, part in zip(states, call.states("state", initial), strict=True):
                array[...] = 0 if part is None else part
                if self.resets is not None:
                    array[self.resets[0]] = 0
            self._run(buffers, "forward", **by_state("output", outputs))
            return outputs, tuple(array.copy() for array in states)

    def scratch_shape(self, wrt_x: bool) -> tuple[int, ...]:
        """The shape of :meth:`backward`'s scratch: the logits' cotangents."""
        separate = self.cell.hidden_size if self.cell.separate_candidate else 0
        return (*self.call.steps, self.cell.rows + separate)

    def backward(self, d_outputs: States, d_states: States, scratch: Array,
                 wrt_x: bool = True) -> Gradients:  # fmt: skip
        """Cotangents of the parameters, of x (or None), and of the parts of the initial state."""
        d_outputs, d_states = self.call.cotangents(d_outputs, d_states)
        d_logits, d_state_candidate = self._parts(scratch)
        arrays = {"d_logits": d_logits, "d_state_candidate": d_state_candidate,
                  **by_state("d_output", map(self._contiguous, d_outputs))}  # fmt: skip
        with self.launcher.lock:
            buffers = self._buffers()
            running = self._states(buffers, "d_hidden", "d_cell")
            d_state = buffers.arrays["d_state"]
            for array, last in zip(running, d_states, strict=True):
                array[...] = 0 if last is None else last
            d_state[...] = 0
            self._run(buffers, "backward", **arrays)
            d_initial = (running[0] + d_state, *(array.copy() for array in running[1:]))
        if self.resets is not None:
            for array in d_initial:
                array[self.resets[0]] = 0
        d_x = None
        if wrt_x:
            d_x = self.xp.matmul(_flat(d_logits), self.params["weight_ih"])
            d_x = d_x.reshape(*self.call.steps, self.cell.input_size)
        return self._d_params(d_logits, d_state_candidate), d_x, d_initial

    def forget_gate(self, main: bool = False) -> Gate:
        """The effective or the main forget gate of every step, (time, batch, hidden) each side."""
        slots = {slot: self.logits[..., part] for slot, part in slot_rows(self.cell).items()}
        gates = self.cell.mechanism.activate(slots)
        forget = gates["forget"] if main else self.cell.mechanism.combine(gates)[0]
        return Gate(*(self.xp.array(side) for side in forget))

    def _d_params(self, d_logits: Array, d_state_candidate: Array | None) -> dict[str, Array]:
        inputs, hidden = self.cell.input_size, operand_hidden(self.cell)
        states, operand = slice(hidden, hidden + self.cell.hidden_size), _flat(self.operand)
        d_weights = self.xp.matmul(_flat(d_logits).T, operand)  # of the input, the bias, the state
        gradients = {
            "weight_ih": d_weights[:, :inputs].copy(),
            "bias": d_weights[:, inputs].copy(),
            "weight_hh": d_weights[:, states].copy(),
        }
        if d_state_candidate is not None:  # the GRU's U h + b_n is not added to the input's part
            d_weights = self.xp.matmul(_flat(d_state_candidate).T, operand)
            gradients["weight_hh"][slot_rows(self.cell)["candidate"]] = d_weights[:, states]
            gradients["bias_n"] = d_weights[:, inputs].copy()
        return {name: gradients[name] for name in self.params}

    def _buffers(self) -> GraphBuffers:
        """The buffers of this shape, with the recurrent weights in them."""
        buffers = self.launcher.buffers(self.layout, self.call.steps, self.call.dtype)
        buffers.weights[...] = self.params["weight_hh"]
        return buffers

    def _states(self, buffers: GraphBuffers, *names: str) -> list[Array]:
        return [buffers.arrays[name] for name in names[: len(self.cell.state_names)]]

    def _run(self, buffers: GraphBuffers, direction: str, **arrays: Array | None) -> None:
        """All steps of a direction, with the arrays of a call."""
        time = self.call.steps[0]
        first = time - 1 if direction == "backward" else 0
        fields = {**self._fields, **arrays}
        self.launcher.upload(record_of(self.launcher.pointer, time, first, **fields), buffers)
        forward, backward = self.launcher.kernels(buffers)
        a, b, out = buffers.products[direction]

        def body(product: Callable[..., Any]) -> None:
            for launch in range(time):
                if direction == "forward":
                    product(a, b, out=out)
                    forward(buffers, launch)
                else:
                    backward(buffers, launch)
                    product(a, b, out=out)

        self.launcher.replay(buffers, direction, body)

    def _parts(self, scratch: Array) -> tuple[Array, Array | None]:
        """The cotangents of logits and, for the GRU, of the state candidate, each contiguous."""
        shape, size = (*self.call.steps, self.cell.rows), self.logits.size
        flat = scratch.reshape(-1)
        if not self.cell.separate_candidate:
            return flat.reshape(shape), None
        return flat[:size].reshape(shape), flat[size:].reshape(self.call.output_shape)

    def _contiguous(self, value: Any) -> Any:
        return self.xp.ascontiguousarray(value) if getattr(value, "ndim", 0) else value


class KernelEngine(Engine):
    """The arrays and implementations of a GPU: the fused kernels, and array operations.

    ``check`` returns the reason why the kernels cannot run on this device at all, or None. It is
    called at most once.
    """

    def __init__(self, launcher: Launcher, check: Callable[[], str | None] = lambda: None) -> None:
        super().__init__(launcher.xp, (FusedLayer, Layer))
        self.launcher, self._check = launcher, check
        # CuPy's pool keeps freed memory in the order of each stream; BufferPool knows no streams
        self.pool = BufferPool(launcher.xp, capacity=0)

    @functools.cached_property
    def device_unsupported(self) -> str | None:
        """Why the kernels cannot run on this device; None if they can."""
        return self._check()


def _flat(steps: Array) -> Array:
    """(time, batch, width) as (time * batch, width)."""
    return steps.reshape(-1, steps.shape[-1])
