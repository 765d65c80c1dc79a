"""Whole sequences by the fused kernels: the time steps of manual BPTT, one launch each.

What a pullback needs lies in arrays that change from call to call. What stands between a step and
its product stays in place, in the graph buffers of a shape. So a recorded graph holds only their
addresses, and serves every call of that shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gatecore.algebra import Gate
from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda.kernel_arguments import RECORD, record_of

Array = Any
Kernel = Callable[[Array, int], None]  # of the uploaded arguments and the step


class Launcher(Protocol):
    """Runs the kernels: on a GPU (``launch``), or in the tests by the host's C++ compiler."""

    xp: Any

    def pointer(self, array: Array) -> int:
        """The address of an array's memory."""

    def upload(self, record: np.ndarray, target: Array) -> None:
        """Copy the kernels' arguments to where the kernels read them."""

    def kernels(self, layout: Layout, dtype: Any, batch: int) -> Sequence[Kernel]:
        """The forward and the backward kernel."""

    def buffers(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> "GraphBuffers":
        """The buffers for this shape."""

    def replay(self, buffers: "GraphBuffers", direction: str, body: Callable[[], None]) -> None:
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


class KernelSteps:
    """The interface of ``numpy.steps.Steps``, for all three cells."""

    def __init__(
        self, engine: Any, layout: Layout, logits: Array, acquire: Any, zoneout: Any = None
    ) -> None:
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

    def scan(
        self, engine: Any, weights: Array, resets: Array | None, num_outputs: int
    ) -> tuple[Array, ...]:
        time, batch, _ = self.logits.shape
        shape, dtype = (time, batch, self.layout.hidden_size), self.logits.dtype
        outputs = tuple(self.xp.empty(shape, dtype=dtype) for _ in range(num_outputs))
        if resets is not None:
            for states in self.states:
                states[0][resets[0]] = 0
        buffers = self._upload(weights, resets=resets, **by_state("output", outputs))
        state, recurrent = buffers.arrays["state"], buffers.arrays["recurrent"]
        state[...] = self.hidden[0]
        kernel, _ = self.launcher.kernels(self.layout, dtype, batch)

        def body() -> None:
            for t in range(time):
                self.xp.matmul(state, buffers.weights.T, out=recurrent)
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
        buffers = self._upload(weights, resets=resets, d_logits=d_logits, **outputs)
        d_states = [buffers.arrays[name] for name in ("d_hidden", "d_cell")]
        d_state, d_recurrent = (buffers.arrays[n] for n in ("d_state", "d_recurrent"))
        for running, last in zip(d_states, self.cotangents, strict=False):
            running[...] = last
        d_state[...] = 0
        _, kernel = self.launcher.kernels(self.layout, d_logits.dtype, d_logits.shape[1])

        def body() -> None:
            for t in reversed(range(len(d_logits))):
                kernel(buffers.arguments, t)
                xp.matmul(d_recurrent, buffers.weights, out=d_state)

        self.launcher.replay(buffers, "backward", body)
        xp.add(d_states[0], d_state, out=d_states[0])
        for running, first in zip(d_states, self.cotangents, strict=False):
            first[...] = running
            if resets is not None:
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
