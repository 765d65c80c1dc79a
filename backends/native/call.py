"""The library's two calls, and the one place that fills its structs.

Buffers are the caller's, from any framework on a CPU. :func:`layer_call` makes a
:class:`LayerCall`, which has their shapes by field name, and takes addresses by field name:

    call = layer_call(cell, time, batch, threads=2)
    arrays = {name: np.empty(shape, np.float32) for name, shape in call.forward_shapes().items()}
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    call.forward(x=x.ctypes.data, weight_ih=weight_ih.ctypes.data, ..., **addresses)

``gatecore_arguments`` in src/interface.h documents the fields; one that is left out is null.
"""

import ctypes
import dataclasses
import functools
import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from gatecore.backends.common.fields import by_state
from gatecore.backends.common.layout import layout_of
from gatecore.backends.native import library
from gatecore.cells import Cell

Shapes = dict[str, tuple[int, ...]]

_KINDS = {"core": ("lstm", "gru", "minimal", "mingru"), "activation": ("sigmoid", "cumax"),
          "auxiliary": ("none", "refine", "master", "untied")}  # fmt: skip
_SLOTS = ("candidate", "forget", "input", "refine", "refine_input", "output", "reset",
          "master_forget", "master_input")  # fmt: skip
_SPLITS = ("auto", "batch", "columns")
CHECKPOINT = 16  # steps from one saved state to the next, of a cell without recurrent weights
_STATUS = {1: "the processor lacks the instruction set",
           2: "sizes or kinds that the library does not know"}  # fmt: skip


class LayerStruct(ctypes.Structure):
    """``gatecore_layer`` of interface.h."""

    _fields_ = [
        *((name, ctypes.c_int32) for name in (
            "core", "auxiliary", "activation", "linear_candidate", "downsize", "time", "batch",
            "input_size", "hidden_size", "width", "rows", "state_offset", *_SLOTS, "threads",
            "instruction_set", "split", "saves",
        )),
        *((name, ctypes.c_void_p) for name in ("input_rows", "state_rows")),
    ]  # fmt: skip


class ArgumentsStruct(ctypes.Structure):
    """``gatecore_arguments`` of interface.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in (
            "x", "weight_ih", "weight_hh", "bias", "bias_hh", "bias_n", "resets",
            "zoneout_mask_hidden", "zoneout_mask_cell",
        )),
        *((name, ctypes.c_float) for name in ("zoneout_hidden", "zoneout_cell")),
        *((name, ctypes.c_void_p) for name in (
            "saved_gates", "saved_hidden", "saved_cell", "initial_hidden", "initial_cell",
            "output_hidden", "output_cell", "final_hidden", "final_cell", "d_output_hidden",
            "d_output_cell", "d_final_hidden", "d_final_cell", "d_initial_hidden",
            "d_initial_cell", "d_x", "d_weight_ih", "d_weight_hh", "d_bias", "d_bias_n", "d_logits",
            "scratch",
        )),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LayerCall:
    """A layer of a cell over (time, batch) steps: the shapes of its buffers, and its two calls.

    It runs on at most so many ``threads``, which divide a step by "batch", "columns" or "auto"
    (``split``). ``saves`` says whether a backward call may follow; without, memory does not grow
    with the sequence. ``instruction_set`` is one of ``library.INSTRUCTION_SETS``, by default
    ``library.instruction_set()``.
    """

    cell: Cell
    time: int
    batch: int
    threads: int = dataclasses.field(kw_only=True)
    saves: bool = dataclasses.field(default=True, kw_only=True)
    instruction_set: str | None = dataclasses.field(default=None, kw_only=True)
    split: str = dataclasses.field(default="auto", kw_only=True)

    @functools.cached_property
    def struct(self) -> LayerStruct:
        """The sizes as the library takes them."""
        layout, cell, mechanism = layout_of(self.cell), self.cell, self.cell.mechanism
        kinds = zip(_KINDS, (cell.core, mechanism.activation, mechanism.kind), strict=True)
        columns = layout.columns
        chosen = self.instruction_set or library.instruction_set()
        rows = [order.astype(np.int32) for order in (layout.input_rows, layout.state_rows)]
        struct = LayerStruct(
            **{name: _KINDS[name].index(kind) for name, kind in kinds},
            **{slot: columns[slot].start if slot in columns else -1 for slot in _SLOTS},
            linear_candidate=cell.candidate == "linear",
            downsize=mechanism.downsize if mechanism.auxiliary == "master" else 1,
            time=self.time, batch=self.batch, input_size=cell.input_size,
            hidden_size=cell.hidden_size, width=layout.width, rows=cell.rows,
            state_offset=layout.state_window.start, threads=self.threads, saves=self.saves,
            instruction_set=library.INSTRUCTION_SETS.index(chosen), split=_SPLITS.index(self.split),
            input_rows=rows[0].ctypes.data, state_rows=rows[1].ctypes.data,
        )  # fmt: skip
        struct.orders = rows  # live as long as the addresses
        return struct

    @functools.cached_property
    def reference(self) -> Any:
        """A reference to :attr:`struct`."""
        return ctypes.byref(self.struct)

    @functools.cached_property
    def stride(self) -> int:
        """Floats of one sequence's saved gates of one step."""
        return library.library().gatecore_stride(ctypes.byref(self.struct))

    @functools.cached_property
    def forward_scratch(self) -> int:
        """Floats of the forward call's scratch memory."""
        return library.library().gatecore_forward_scratch(ctypes.byref(self.struct))

    @functools.cached_property
    def backward_scratch(self) -> tuple[int, int]:
        """Floats of the backward call's scratch memory, without and with the cotangent of x."""
        size = library.library().gatecore_backward_scratch
        return size(ctypes.byref(self.struct), 0), size(ctypes.byref(self.struct), 1)

    @functools.cached_property
    def saved_shapes(self) -> Shapes:
        """Shapes of what the forward call writes for the backward call."""
        if not (self.saves or self.cell.recurrent):
            return {}
        steps = self.time if self.saves else 1
        return saved_shapes(self.cell, self.stride, steps, self.batch)

    @functools.cached_property
    def saved_offsets(self) -> dict[str, int]:
        """Bytes before each of these, where they lie one after the other in one buffer."""
        sizes = [4 * math.prod(shape) for shape in self.saved_shapes.values()]
        return dict(zip(self.saved_shapes, itertools.accumulate(sizes, initial=0), strict=False))

    @functools.cached_property
    def saved_floats(self) -> int:
        """Floats of that buffer."""
        return sum(math.prod(shape) for shape in self.saved_shapes.values())

    def forward_shapes(self, cells: bool = False) -> Shapes:
        """Shapes of the forward call's results; ``cells`` adds the cell states of all steps."""
        final = (self.batch, self.cell.hidden_size)
        outputs = [(self.time, *final)] * (1 + cells)
        return by_state("output", outputs) | by_state("final", self._per_state(final))

    def backward_shapes(self, wrt_x: bool = True) -> Shapes:
        """Shapes of the backward call's results."""
        initial = (self.batch, self.cell.hidden_size)
        x = (self.time, self.batch, self.cell.input_size)
        return {
            **by_state("d_initial", self._per_state(initial)),
            **({"d_x": x} if wrt_x else {}),
            **{f"d_{name}": shape for name, shape in self.cell.parameter_shapes().items()},
        }

    @property
    def logits_shape(self) -> Shapes:
        """The cotangents of all logits, for the backward call to write.

        They stand in the order of the weights' rows, then a GRU's U h + b_n. The call, of a
        recurrent cell, then writes no gradients of parameters.
        """
        return {"d_logits": (self.time, self.batch, layout_of(self.cell).width)}

    def forward(self, **fields: int | float | None) -> None:
        """Run the forward call on these addresses and zoneout probabilities.

        RuntimeError if the library refuses the call, with the reason.
        """
        self.run("gatecore_run_forward", **fields)

    def backward(self, **fields: int | float | None) -> None:
        """Run the backward call, as :meth:`forward`."""
        self.run("gatecore_run_backward", **fields)

    def run(self, function: str, **fields: int | float | None) -> None:
        """Run one of the library's calls; the interpreter's lock is released meanwhile."""
        call, arguments = getattr(library.library(), function), ArgumentsStruct(**fields)
        if status := call(self.reference, ctypes.byref(arguments)):
            raise RuntimeError(f"{function} failed: {_STATUS.get(status, f'status {status}')}")

    def ffi_attributes(self, read: Iterable[str], written: Iterable[str]) -> dict[str, np.ndarray]:
        """The attributes of XLA's call (jax_ffi.cpp) on buffers that these fields point to."""
        numbers = LayerStruct.input_rows.offset // 4
        return {"layer": np.frombuffer(bytes(self.struct), np.int32, numbers),
                **dict(zip(("input_rows", "state_rows"), self.struct.orders, strict=True)),
                "read": _offsets(read), "written": _offsets(written)}  # fmt: skip

    def _per_state(self, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
        return [shape] * len(self.cell.state_names)


def saved_shapes(cell: Cell, stride: int, steps: Any, batch: Any) -> Shapes:
    """``LayerCall.saved_shapes``, for numbers that may be symbols.

    Without a backward call to come, one step's gates and two states are kept: ``steps`` is 1. Gates
    that do not depend on the state are not saved, but computed again.
    """
    if not cell.recurrent:
        saved_steps = (steps + CHECKPOINT - 1) // CHECKPOINT
        return {"saved_hidden": (saved_steps, batch, cell.hidden_size)}
    states = [(steps + 1, batch, cell.hidden_size)] * len(cell.state_names)
    return {"saved_gates": (steps, batch, stride), **by_state("saved", states)}


layer_call = functools.lru_cache(maxsize=256)(LayerCall)  # asks the library for sizes once


def _offsets(fields: Iterable[str]) -> np.ndarray:
    return np.array([getattr(ArgumentsStruct, name).offset for name in fields], np.int32)
