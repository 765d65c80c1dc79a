"""Whole sequences by the fused kernels: the time steps of manual BPTT, one launch each.

What a pullback needs lies in arrays that change from call to call. What stands between a step and
its product stays in place, in the graph buffers of a shape. So a recorded graph holds only their
addresses, and serves every call of that shape.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np

from gatecore.algebra import Gate
from gatecore.backends.common.buffer_pool import BufferPool
from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import support
from gatecore.backends.numpy.bptt import Call, Engine, Layer

Array = Any
Kernel = Callable[[Array, int], None]  # of the uploaded arguments and the step
Body = Callable[[Callable[..., Any]], None]  # all steps, with a function for the products

# the fields of a kernel's arguments, `Sequence` of sequence.cuh
SIZES = ("time", "batch", "hidden", "width", "ordered_width", "downsize", "rows",
         "state_window")  # fmt: skip
SLOTS = ("candidate", "forget", "input", "refine", "refine_input", "output", "reset",
         "master_forget", "master_input", "state_candidate")  # fmt: skip
PROBABILITIES = ("zoneout_cell", "zoneout_hidden")
FIELDS = (*SIZES, *SLOTS, "logits", "ordered", "saved_hidden", "saved_cell", "resets",
          "zoneout_mask_cell", "zoneout_mask_hidden", *PROBABILITIES, "bias_n", "output_hidden",
          "output_cell", "state", "recurrent", "d_output_hidden", "d_output_cell", "d_logits",
          "d_hidden", "d_cell", "d_recurrent", "d_state", "d_main")  # fmt: skip
RECORD = np.dtype([(n, np.float64 if n in PROBABILITIES else np.int64) for n in FIELDS])


def record_of(layout: Layout, steps: tuple[int, int], pointer: Any, **fields: Any) -> np.ndarray:
    """The arguments (1,) for a sequence of (time, batch) steps: arrays by their ``pointer``.

    ``fields`` are arrays and probabilities by name; others are null and 0. ValueError if an array
    is not contiguous.
    """
    downsize = layout.mechanism.downsize if layout.mechanism.auxiliary == "master" else 1
    sizes = (*steps, layout.hidden_size, layout.width, layout.ordered_width, downsize,
             len(layout.state_rows), layout.state_window.start)  # fmt: skip
    record = np.zeros(1, RECORD)
    for name, size in zip(SIZES, sizes, strict=True):
        record[name] = size
    for slot in SLOTS:
        record[slot] = layout.columns[slot].start if slot in layout.columns else -1
    for name, value in fields.items():
        if name in PROBABILITIES:
            record[name] = value
        elif value is not None:
            if not value.flags.c_contiguous:
                raise ValueError(f"{name} must be contiguous, got strides {value.strides}")
            record[name] = pointer(value)
    return record


class Launcher(Protocol):
    """Runs the kernels: on a GPU (``launch``), or in the tests by the host's C++ compiler."""

    xp: Any
    lock: AbstractContextManager[Any]  # of all buffers; a thread may take it again

    def pointer(self, array: Array) -> int:
        """The address of an array's memory."""

    def upload(self, record: np.ndarray, target: Array) -> None:
        """Copy the kernels' arguments to where the kernels read them."""

    def kernels(self, layout: Layout, dtype: Any, batch: int) -> Sequence[Kernel]:
        """The forward and the backward kernel."""

    def buffers(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> "GraphBuffers":
        """The buffers for this shape."""

    def replay(self, buffers: "GraphBuffers", direction: str, body: Body) -> None:
        """Do the work of ``body``: call it, or launch the graph recorded of an earlier call."""


class GraphBuffers:
    """Arrays that stay in place between calls of one shape, and the graphs recorded on them."""

    def __init__(self, xp: Any, layout: Layout, steps: tuple[int, int], dtype: Any) -> None:
        batch, hidden, rows = steps[1], layout.hidden_size, len(layout.state_rows)
        shapes: dict[str, tuple[int, ...]] = {
            **dict.fromkeys(("state", "d_hidden", "d_cell", "d_state"), (batch, hidden)),
            **dict.fromkeys(("recurrent", "d_recurrent"), (batch, rows)),
            "d_main": (batch, 2, hidden),
        }
        self.arrays = {name: xp.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        self.weights = xp.empty((rows, hidden), dtype=dtype)
        self.arguments = xp.empty(RECORD.itemsize, dtype=np.uint8)
        self.graphs: dict[str, Any] = {}
        self.products = {  # (a, b, out) of a step's a @ b
            "forward": (self.arrays["state"], self.weights.T, self.arrays["recurrent"]),
            "backward": (self.arrays["d_recurrent"], self.weights, self.arrays["d_state"]),
        }
        self.product: Any = None  # what computes them in a recorded graph, while there is one


class KernelSteps:
    """The interface of ``numpy.steps.Steps``, for all three cells."""

    def __init__(self, engine: Any, layout: Layout, logits: Array, acquire: Any,
                 zoneout: Any = None) -> None:  # fmt: skip
        self.launcher, self.xp = engine.launcher, engine.xp
        self.layout, self.logits = layout, logits
        self.bias: Array = None
        zoneout = {name: self._contiguous(z) for name, z in zoneout_fields(zoneout).items()}
        ordered = acquire(3 * layout.ordered_width) if layout.ordered else None
        names = layout.cell.state_names
        self.states = tuple(acquire(layout.hidden_size, extra=1) for _ in names)
        self.hidden = self.states[0]
        shape = self.hidden.shape[1:]
        self.cotangents = tuple(self.xp.empty(shape, dtype=logits.dtype) for _ in names)
        saved = by_state("saved", self.states)
        self._fields = {"logits": logits, "ordered": ordered, **saved, **zoneout}

    def gates(self) -> dict[str, Gate]:
        slots = {slot: self.logits[..., part] for slot, part in self.layout.columns.items()}
        return self.layout.mechanism.activate(slots)

    def scan(self, engine: Any, weights: Array, resets: Array | None, num_outputs: int) -> Any:
        time, batch, _ = self.logits.shape
        shape, dtype = (time, batch, self.layout.hidden_size), self.logits.dtype
        outputs = tuple(self.xp.empty(shape, dtype=dtype) for _ in range(num_outputs))
        if resets is not None:
            for states in self.states:
                states[0][resets[0]] = 0
        kernel, _ = self.launcher.kernels(self.layout, dtype, batch)
        with self.launcher.lock:
            buffers = self._upload(weights, resets=resets, **by_state("output", outputs))
            buffers.arrays["state"][...] = self.hidden[0]
            a, b, recurrent = buffers.products["forward"]

            def body(product: Callable[..., Any]) -> None:
                for t in range(time):
                    product(a, b, out=recurrent)
                    kernel(buffers.arguments, t)

            self.launcher.replay(buffers, "forward", body)
        return outputs

    def scan_backward(
        self, engine: Any, weights: Array, resets: Array | None, d_logits: Array,
        d_outputs: Sequence[Array | None],
    ) -> None:  # fmt: skip
        """From the last states' ``cotangents`` to the first ones', in place, and ``d_logits``."""
        xp = self.xp
        outputs = by_state("d_output", map(self._contiguous, d_outputs))
        _, kernel = self.launcher.kernels(self.layout, d_logits.dtype, d_logits.shape[1])
        with self.launcher.lock:
            buffers = self._upload(weights, resets=resets, d_logits=d_logits, **outputs)
            d_states = [buffers.arrays[name] for name in ("d_hidden", "d_cell")]
            a, b, d_state = buffers.products["backward"]
            for running, last in zip(d_states, self.cotangents, strict=False):
                running[...] = last
            d_state[...] = 0

            def body(product: Callable[..., Any]) -> None:
                for t in reversed(range(len(d_logits))):
                    kernel(buffers.arguments, t)
                    product(a, b, out=d_state)

            self.launcher.replay(buffers, "backward", body)
            xp.add(d_states[0], d_state, out=d_states[0])
            for running, first in zip(d_states, self.cotangents, strict=False):
                first[...] = running
        if resets is not None:
            for first in self.cotangents:
                first[resets[0]] = 0

    def _upload(self, weights: Array, **fields: Array | None) -> GraphBuffers:
        """The buffers of this shape, with the weights and a call's arguments in them."""
        launcher, steps = self.launcher, self.logits.shape[:2]
        buffers = launcher.buffers(self.layout, steps, self.logits.dtype)
        buffers.weights[...] = weights
        fields |= {"bias_n": self.bias, **self._fields, **buffers.arrays}
        record = record_of(self.layout, steps, launcher.pointer, **fields)
        launcher.upload(record, buffers.arguments)
        return buffers

    def _contiguous(self, value: Any) -> Any:
        return self.xp.ascontiguousarray(value) if getattr(value, "ndim", 0) else value


class FusedLayer(Layer):
    """One layer over one sequence, a time step being one product and one kernel."""

    name = "fused"

    @staticmethod
    def unsupported(call: Call, /) -> str | None:
        engine: Any = call.engine  # a KernelEngine
        return engine.device_unsupported or support.unsupported(call.cell, call.steps, call.dtype)

    def _steps(self, acquire: Any) -> KernelSteps:
        return KernelSteps(self.engine, self.layout, self.logits, acquire, self.call.zoneout)


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
