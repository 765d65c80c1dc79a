"""Whole sequences by the fused kernels: the time steps of manual BPTT, one launch each.

What a pullback needs lies in arrays that change from call to call. What stands between a step and
its product stays in place: a ``Station``, of which there is one for each shape. So a recorded graph
holds only the station's addresses, and serves every call of that shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gatecore.algebra import Gate
from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import kernel_arguments

Array = Any


class Launcher(Protocol):
    """What runs the kernels: a GPU (``device``), or in the tests the host's C++ compiler."""

    xp: Any

    def pointer(self, array: Array) -> int:
        """The address of an array's memory."""

    def upload(self, record: np.ndarray, target: Array) -> None:
        """Copy a table's bytes to where the kernels read it."""

    def kernels(
        self, layout: Layout, dtype: Any, batch: int
    ) -> Sequence[Callable[[Array, int], None]]:
        """The forward and the backward kernel: functions of the uploaded table and the step."""

    def station(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> "Station":
        """The station for this shape."""

    def replay(self, station: "Station", direction: str, body: Callable[[], None]) -> None:
        """Do what ``body`` does: by calling it, or by what was recorded of an earlier call."""


class Station:
    """Memory that stays where it is between calls of one shape, and what was recorded on it."""

    def __init__(self, xp: Any, layout: Layout, steps: tuple[int, int], dtype: Any) -> None:
        batch, hidden, rows = steps[1], layout.hidden_size, len(layout.state_rows)
        shapes = {
            "state": (batch, hidden),
            "recurrent": (batch, rows),
            "d_hidden": (batch, hidden),
            "d_cell": (batch, hidden),
            "d_recurrent": (batch, rows),
            "through": (batch, hidden),
            "d_main": (batch, 2, hidden),
        }
        self.arrays = {name: xp.empty(shape, dtype=dtype) for name, shape in shapes.items()}
        self.weights = xp.empty((rows, hidden), dtype=dtype)
        self.table = xp.empty(kernel_arguments.RECORD.itemsize, dtype=np.uint8)
        self.recorded: dict[str, Any] = {}


class KernelSteps:
    """The interface of ``numpy.steps.Steps``, for all three cells."""

    def __init__(
        self, engine: Any, layout: Layout, logits: Array, acquire: Any, zoneout: Any = None
    ) -> None:
        self.launcher, self.xp = engine.launcher, engine.xp
        self.layout, self.logits = layout, logits
        self.bias: Array = None
        self.amounts = [self._amount(a) for a in reversed(zoneout or ())]  # in the states' order
        self.ordered = acquire(3 * layout.ordered_width) if layout.ordered else None
        names = layout.cell.state_names
        self.states = tuple(acquire(layout.hidden_size, extra=1) for _ in names)
        self.hidden = self.states[0]
        shape = self.hidden.shape[1:]
        self.cotangents = tuple(self.xp.empty(shape, dtype=logits.dtype) for _ in names)

    def gates(self) -> dict[str, Gate]:
        """The gate slots' own activations at every step, by slot name."""
        slots = {slot: self.logits[..., part] for slot, part in self.layout.columns.items()}
        return self.layout.mechanism.activate(slots)

    def scan(
        self, engine: Any, weights: Array, factors: Array | None, num_outputs: int
    ) -> tuple[Array, ...]:
        """All steps from ``states[..][0]``: the first ``num_outputs`` states after each."""
        shape = (*self.logits.shape[:2], self.layout.hidden_size)
        outputs = [self.xp.empty(shape, dtype=self.logits.dtype) for _ in range(num_outputs)]
        if factors is not None:
            for states in self.states:
                states[0] *= factors[0]
        station = self._station(weights)
        station.arrays["state"][...] = self.hidden[0]
        names = dict(zip(kernel_arguments.RESULTS, outputs, strict=False))
        self._tell(station, factors, **names)
        step, _ = self._kernels()
        state, recurrent = station.arrays["state"], station.arrays["recurrent"]
        transposed = station.weights.T

        def body() -> None:
            for t in range(shape[0]):
                self.xp.matmul(state, transposed, out=recurrent)
                step(station.table, t)

        self.launcher.replay(station, "forward", body)
        return tuple(outputs)

    def scan_backward(
        self,
        engine: Any,
        weights: Array,
        factors: Array | None,
        d_logits: Array,
        d_outputs: Sequence[Array | None],
    ) -> None:
        """From the last states' ``cotangents`` to the first ones', in place, and ``d_logits``."""
        xp, station = self.xp, self._station(weights)
        d_outputs = [None if d is None else xp.ascontiguousarray(d) for d in d_outputs]
        running = [station.arrays[name] for name in ("d_hidden", "d_cell")]
        for own, value in zip(running, self.cotangents, strict=False):
            own[...] = value
        through, d_recurrent = (station.arrays[n] for n in ("through", "d_recurrent"))
        through[...] = 0
        names = dict(zip(("d_outputs", "d_output_cells"), d_outputs, strict=False))
        self._tell(station, factors, d_logits=d_logits, **names)
        _, step = self._kernels()

        def body() -> None:
            for t in reversed(range(len(d_logits))):
                step(station.table, t)
                xp.matmul(d_recurrent, station.weights, out=through)

        self.launcher.replay(station, "backward", body)
        xp.add(running[0], through, out=running[0])
        for own, result in zip(running, self.cotangents, strict=False):
            result[...] = own if factors is None else own * factors[0]

    def _station(self, weights: Array) -> Station:
        station = self.launcher.station(self.layout, self.logits.shape[:2], self.logits.dtype)
        station.weights[...] = weights
        return station

    def _kernels(self) -> Sequence[Callable[[Array, int], None]]:
        return self.launcher.kernels(self.layout, self.logits.dtype, self.logits.shape[1])

    def _tell(self, station: Station, keep: Array | None, **call: Array | None) -> None:
        """Upload the table of this call: ``call`` are the arrays that only it has."""
        record = kernel_arguments.blank(self.layout, self.logits.shape[:2])
        arrays = self.logits, self.ordered, *self.states
        saved = dict(zip(kernel_arguments.SAVED, arrays, strict=False))
        given: dict[str, Array] = {"keep": keep, "bias": self.bias}
        for name, amount in zip(("hidden", "cell"), self.amounts, strict=False):
            if isinstance(amount, float):
                record[f"zoneout_{name}"] = amount
            else:
                given[f"zoneout_mask_{name}"] = amount
        kernel_arguments.fill(
            record, self.launcher.pointer, **given, **saved, **station.arrays, **call
        )
        self.launcher.upload(record, station.table)

    def _amount(self, amount: Any) -> Any:
        """A zoneout amount as a float, or draws in one piece of memory."""
        draws = getattr(amount, "ndim", 0)
        return self.xp.ascontiguousarray(amount) if draws else float(amount or 0)
