"""Whole sequences by the fused kernels: the steps of the explicit driver, one launch each.

What a pullback needs lies in arrays that the driver gives, and changes from call to call. What
stands between a step and its product stays in place: a ``Station``, of which there is one for each
shape. So a recorded graph holds only the station's addresses, and serves every call of that shape.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gatecore.algebra import Gate
from gatecore.backends.common.layout import Plan
from gatecore.backends.cuda import kernel_arguments
from gatecore.backends.numpy.loop import Loop

Array = Any


class Launcher(Protocol):
    """What runs the kernels: a GPU (``device``), or in the tests the host's C++ compiler."""

    xp: Any

    def pointer(self, array: Array) -> int:
        """The address of an array's memory."""

    def upload(self, record: np.ndarray, target: Array) -> None:
        """Copy a table's bytes to where the kernels read it."""

    def kernels(self, plan: Plan, dtype: Any, batch: int) -> Sequence[Callable[[Array, int], None]]:
        """The forward and the backward kernel: functions of the uploaded table and the step."""

    def station(self, plan: Plan, steps: tuple[int, int], dtype: Any) -> "Station":
        """The station for this shape."""

    def replay(self, station: "Station", direction: str, body: Callable[[], None]) -> None:
        """Do what ``body`` does: by calling it, or by what was recorded of an earlier call."""


class Station:
    """Memory that stays where it is between calls of one shape, and what was recorded on it."""

    def __init__(self, xp: Any, plan: Plan, steps: tuple[int, int], dtype: Any) -> None:
        batch, hidden, rows = steps[1], plan.hidden_size, len(plan.state_rows)
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


class KernelSteps(Loop):
    """The interface of ``explicit.steps.Steps``, for all three cells."""

    path = "fused kernels"

    def __init__(
        self,
        launcher: Any,  # a Launcher
        xp: Any,
        plan: Plan,
        logits: Array,
        take: Any,
        zoneout: Any = None,
    ) -> None:
        self.launcher, self.xp, self.plan, self.logits = launcher, xp, plan, logits
        self.bias: Array = None
        amounts = zoneout if isinstance(zoneout, tuple) else (zoneout,)
        self.amounts = [self._amount(a) for a in reversed(amounts)]  # hidden, and of an LSTM cell
        self.ordered = take(3 * plan.ordered_width) if plan.ordered else None
        self.hidden = take(plan.hidden_size, extra=1)
        self.cell = take(plan.hidden_size, extra=1) if plan.core == "lstm" else None
        self.states = (self.hidden,) if self.cell is None else (self.hidden, self.cell)
        empty = xp.empty(self.hidden.shape[1:], dtype=logits.dtype)
        self.cotangents = tuple(empty if s is self.hidden else xp.empty_like(empty)
                                for s in self.states)  # fmt: skip

    def gates(self) -> dict[str, Gate]:
        """The gate slots' own activations at every step, by slot name."""
        slots = {slot: self.logits[..., part] for slot, part in self.plan.columns.items()}
        return self.plan.mechanism.activate(slots)

    def sweep(self, engine: Any, weights: Array, keep: Array | None, shown: int) -> Any:
        """All steps from ``states[..][0]``: the first ``shown`` states after each."""
        shape = (*self.logits.shape[:2], self.plan.hidden_size)
        outputs = [self.xp.empty(shape, dtype=self.logits.dtype) for _ in range(shown)]
        if keep is not None:
            for states in self.states:
                states[0] *= keep[0]
        station = self._station(weights)
        station.arrays["state"][...] = self.hidden[0]
        names = dict(zip(kernel_arguments.RESULTS, outputs, strict=False))
        self._tell(station, keep, **names)
        step, _ = self._kernels()
        state, recurrent = station.arrays["state"], station.arrays["recurrent"]
        transposed = station.weights.T

        def body() -> None:
            for t in range(shape[0]):
                self.xp.matmul(state, transposed, out=recurrent)
                step(station.table, t)

        self.launcher.replay(station, "forward", body)
        return tuple(outputs)

    def sweep_back(
        self,
        engine: Any,
        weights: Array,
        keep: Array | None,
        d_logits: Array,
        given: Sequence[Array | None],
    ) -> None:
        """From the last states' ``cotangents`` to the first ones', in place, and ``d_logits``."""
        xp, station = self.xp, self._station(weights)
        given = [None if g is None else xp.ascontiguousarray(g) for g in given]
        running = [station.arrays[name] for name in ("d_hidden", "d_cell")]
        for own, value in zip(running, self.cotangents, strict=False):
            own[...] = value
        through, d_recurrent = (station.arrays[n] for n in ("through", "d_recurrent"))
        through[...] = 0
        names = dict(zip(("d_outputs", "d_output_cells"), given, strict=False))
        self._tell(station, keep, d_logits=d_logits, **names)
        _, step = self._kernels()

        def body() -> None:
            for t in reversed(range(len(d_logits))):
                step(station.table, t)
                xp.matmul(d_recurrent, station.weights, out=through)

        self.launcher.replay(station, "backward", body)
        xp.add(running[0], through, out=running[0])
        for own, result in zip(running, self.cotangents, strict=False):
            result[...] = own if keep is None else own * keep[0]

    def _station(self, weights: Array) -> Station:
        station = self.launcher.station(self.plan, self.logits.shape[:2], self.logits.dtype)
        station.weights[...] = weights
        return station

    def _kernels(self) -> Sequence[Callable[[Array, int], None]]:
        return self.launcher.kernels(self.plan, self.logits.dtype, self.logits.shape[1])

    def _tell(self, station: Station, keep: Array | None, **call: Array | None) -> None:
        """Upload the table of this call: ``call`` are the arrays that only it has."""
        record = kernel_arguments.blank(self.plan, self.logits.shape[:2])
        arrays = self.logits, self.ordered, *self.states
        saved = dict(zip(kernel_arguments.SAVED, arrays, strict=False))
        given: dict[str, Array] = {"keep": keep, "bias": self.bias}
        for name, amount in zip(("hidden", "cell"), self.amounts, strict=False):
            if isinstance(amount, float):
                record[f"amount_{name}"] = amount
            else:
                given[f"zone_{name}"] = amount
        kernel_arguments.fill(
            record, self.launcher.pointer, **given, **saved, **station.arrays, **call
        )
        self.launcher.upload(record, station.table)

    def _amount(self, amount: Any) -> Any:
        """A zoneout amount as a float, or draws in one piece of memory."""
        draws = getattr(amount, "ndim", 0)
        return self.xp.ascontiguousarray(amount) if draws else float(amount or 0)
