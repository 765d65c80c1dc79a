"""One layer over one sequence by the native library: the interface of ``explicit.sequence.Layer``.

Arrays are NumPy's, float32; those of other frameworks on a CPU are viewed as such.
"""

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gatecore.algebra import Gate, negate
from gatecore.backends.common.buffer_pool import Workspace
from gatecore.backends.common.layout import plan
from gatecore.backends.common.validation import array, state_parts, zoneout_amounts
from gatecore.backends.native import library
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

Array = Any

_KINDS = {
    "core": ("lstm", "gru", "minimal"),
    "auxiliary": ("none", "refine", "master"),
    "activation": ("sigmoid", "cumax"),
}
_SLOTS = {  # field of the struct: slot of the cell
    **{name: name for name in ("candidate", "forget", "refine", "output", "reset")},
    **{name: name for name in ("master_forget", "master_input")},
    "input_gate": "input",
}
_SPLITS = {"auto": 0, "batch": 1, "columns": 2}


def obstacle(dtype: Any) -> str | None:
    """Why the library cannot run a layer of this dtype, None if it can."""
    if np.dtype(dtype) != np.float32:
        return f"it computes in float32, not {np.dtype(dtype)}"
    return library.missing()


class NativeLayer:
    """What ``explicit.sequence.Layer`` does, by the library.

    Parameters
    ----------
    cell, params, take, resets, zoneout, steps, dtype
        As there; arrays in C order are not copied.
    threads : int
        At most so many.
    instruction_set : str, optional
        One of ``library.INSTRUCTION_SETS``; default the widest that the processor has.
    split : {"auto", "batch", "columns"}
        How threads divide a step.
    saves : bool
        Whether a backward may follow; without, memory does not grow with the sequence.
    """

    path = "native"

    def __init__(
        self,
        cell: Cell,
        params: Mapping[str, Array],
        take: Any,
        resets: Array | None,
        zoneout: Any,
        steps: tuple[int, int],
        dtype: Any,
        *,
        threads: int,
        instruction_set: str | None = None,
        split: str = "auto",
        saves: bool = True,
    ) -> None:
        self.cell, self.dtype, self.saves = cell, dtype, saves
        self.time, self.batch = steps
        self.plan = plan(cell)
        self.params = {name: np.ascontiguousarray(value) for name, value in params.items()}
        if resets is not None:
            resets = np.array(array("resets", resets, steps, "bool", "(time, batch)"), order="C")
        self._resets = resets
        self._zoneout = self._amounts(zoneout_amounts(cell, zoneout, steps, dtype))
        chosen = instruction_set or library.best_instruction_set()
        self._shape = shape_of(
            cell.core, cell.mechanism, (cell.input_size, cell.hidden_size), steps, threads, chosen,
            split,
        )  # fmt: skip
        hidden, cells = self.plan.hidden_size, cell.core == "lstm"
        stride = self._shape.stride
        if saves:
            self._gates, self._x = take(stride), take(cell.input_size)
            self._states = [take(hidden, extra=1) for _ in range(1 + cells)]
        else:
            self._gates = take(stride, steps=False)
            self._states = [np.empty((2, self.batch, hidden), dtype) for _ in range(1 + cells)]

    def forward(self, x: Array, state: Any, return_cells: bool = False) -> tuple[Any, Any]:
        """All steps from x (time, batch, input): the outputs, and the last state."""
        given = state_parts(self.cell, state, self._states[0].shape[1:], self.dtype)
        for states, first in zip(self._states, given, strict=True):
            states[0] = 0 if first is None else first
        if self.saves:
            self._x[...] = x
        else:
            self._x = np.ascontiguousarray(x)
        shape = (self.time, self.batch, self.plan.hidden_size)
        outputs = [np.empty(shape, self.dtype) for _ in range(1 + return_cells)]
        call = self._forward_struct()
        call.output = _address(outputs[0])
        call.output_cell = _address(outputs[1]) if return_cells else None
        with borrowed(self._shape.forward_scratch) as scratch:
            call.scratch = _address(scratch)
            library.call("gatecore_run_forward", self._shape.struct, call)
        last = self.time if self.saves else self.time % 2
        final = self._packed([states[last].copy() for states in self._states])
        return tuple(outputs) if return_cells else outputs[0], final

    def scratch_shape(self, wrt_x: bool) -> tuple[int, ...]:
        """Of the memory that :meth:`backward` works in."""
        return (self._shape.backward_scratch[wrt_x],)

    def backward(
        self, d_outputs: Sequence[Array | None], d_state: Any, scratch: Array, wrt_x: bool = True
    ) -> tuple[dict[str, Array], Array | None, Any]:
        """Cotangents of the parameters, of x (or None), and of the initial state.

        ``scratch`` has the shape that :meth:`scratch_shape` says.
        """
        full = (self.time, self.batch, self.plan.hidden_size)
        for part in d_outputs:
            if part is not None:
                array("d_output", part, full, self.dtype, "(time, batch, hidden)")
        given = [None if part is None else np.ascontiguousarray(part) for part in d_outputs]
        last = state_parts(self.cell, d_state, full[1:], self.dtype, "d_state")
        running = [np.zeros(full[1:], self.dtype) if part is None
                   else np.array(part, order="C") for part in last]  # fmt: skip
        gradients = {name: np.empty_like(value) for name, value in self.params.items()}
        d_x = np.empty((self.time, self.batch, self.cell.input_size), self.dtype) if wrt_x else None
        forward = self._forward_struct()
        call = library.BackwardStruct(forward=ctypes.pointer(forward))
        call.d_output, call.d_output_cell = (_address(part) for part in [*given, None][:2])
        call.d_hidden, call.d_cell = (_address(part) for part in [*running, None][:2])
        call.d_x = _address(d_x)
        for name in ("weight_ih", "weight_hh", "bias", "bias_n"):
            setattr(call, f"d_{name}", _address(gradients.get(name)))
        call.scratch = _address(scratch)
        library.call("gatecore_run_backward", self._shape.struct, call)
        return gradients, d_x, self._packed(running)

    def forget_gate(self) -> Gate:
        """The effective forget gate of every step, (time, batch, hidden) each side."""
        mechanism, columns = self.plan.mechanism, self.plan.columns
        gates = {}
        for slot in self.plan.complements:
            saved = self._gates[..., columns[slot]]
            gates[slot] = _ordered(saved) if slot in self.plan.ordered else _decoded(saved)
            if mechanism.negated(slot):
                gates[slot] = negate(gates[slot])
        return Gate(*map(np.asarray, mechanism.combine(gates)[0]))

    def _packed(self, states: Sequence[Array]) -> Any:
        return tuple(states) if self.cell.core == "lstm" else states[0]

    def _amounts(self, zoneout: Any) -> tuple[Any, Any]:
        """Of the cell and the hidden state: numbers, or draws in C order."""
        pair = zoneout if isinstance(zoneout, tuple) else (0.0, zoneout)
        return tuple(
            np.ascontiguousarray(amount) if getattr(amount, "ndim", 0) else float(amount or 0)
            for amount in pair
        )  # type: ignore[return-value]

    def _forward_struct(self) -> library.ForwardStruct:
        """The call's arguments, but for what it returns and its scratch."""
        call = library.ForwardStruct(saves=self.saves)
        for name in ("weight_ih", "weight_hh", "bias", "bias_n"):
            setattr(call, name, _address(self.params.get(name)))
        call.x, call.resets = _address(self._x), _address(self._resets)
        for name, amount in zip(("cell", "hidden"), self._zoneout, strict=True):
            if isinstance(amount, float):
                setattr(call, f"kept_{name}", amount)
            else:
                setattr(call, f"keep_{name}", _address(amount))
        call.gates = _address(self._gates)
        call.hidden, call.cell = (_address(part) for part in [*self._states, None][:2])
        return call


def release() -> None:
    """Free the scratch that is kept between calls."""
    _SCRATCH.release()


_SCRATCH = Workspace(np)


@contextlib.contextmanager
def borrowed(floats: int) -> Iterator[Array]:
    """Scratch of the library's calls, from the pool that :func:`release` empties."""
    scratch = _SCRATCH.take((floats,), np.float32)
    try:
        yield scratch
    finally:
        _SCRATCH.give([scratch])


def _address(value: Array | None) -> int | None:
    return None if value is None else value.__array_interface__["data"][0]


class Shape(NamedTuple):
    """A layer's sizes as the library takes them, and what it says of them."""

    struct: library.LayerStruct
    orders: list[Array]  # the rows that the struct points to
    stride: int
    forward_scratch: int
    backward_scratch: tuple[int, int]  # without and with the cotangent of x


@functools.lru_cache(maxsize=256)
def shape_of(
    core: str,
    mechanism: Mechanism,
    sizes: tuple[int, int],
    steps: tuple[int, int],
    threads: int,
    chosen: str,
    split: str,
) -> Shape:
    """A layer of (input, hidden) sizes over (time, batch) steps, as the library takes it."""
    layout = plan(CELLS[core](*sizes, mechanism))
    orders = [rows.astype(np.int32) for rows in (layout.input_rows, layout.state_rows)]
    struct = library.LayerStruct(
        downsize=layout.mechanism.downsize if layout.mechanism.auxiliary == "master" else 1,
        time=steps[0], batch=steps[1], input=sizes[0], hidden=sizes[1],
        width=layout.width, rows=len(layout.input_rows), state_offset=layout.state_window.start,
        input_rows=_address(orders[0]), state_rows=_address(orders[1]),
        threads=threads, instruction_set=library.INSTRUCTION_SETS.index(chosen),
        split=_SPLITS[split],
    )  # fmt: skip
    for name, values in _KINDS.items():
        value = layout.core if name == "core" else getattr(layout.mechanism, name)
        setattr(struct, name, values.index(value))
    for field, slot in _SLOTS.items():
        setattr(struct, field, layout.columns[slot].start if slot in layout.columns else -1)
    native, there = library.library(), ctypes.byref(struct)
    backward = [native.gatecore_backward_scratch(there, wrt_x) for wrt_x in (0, 1)]
    return Shape(struct, orders, native.gatecore_stride(there),
                  native.gatecore_forward_scratch(there), tuple(backward))  # fmt: skip


def _decoded(code: Array) -> Gate:
    """A gate from its smaller side, which is negative if that is the complement."""
    smaller, negative = np.abs(code), np.signbit(code)
    larger = 1 - smaller
    return Gate(np.where(negative, larger, smaller), np.where(negative, smaller, larger))


def _ordered(weights: Array) -> Gate:
    """cumax from its softmax."""
    value = np.cumsum(weights, axis=-1)
    beyond = np.zeros_like(weights)
    beyond[..., :-1] = np.cumsum(weights[..., :0:-1], axis=-1)[..., ::-1]
    total = value + beyond
    return Gate(value / total, beyond / total)
