"""A whole sequence forward, and its pullback: one driver for every cell and mechanism.

The input projection is one product over all time, and so is each weight gradient; the time
loop (``loop``) multiplies by the recurrent weights and steps, and allocates nothing.
"""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatecore import cells
from gatecore._checks import choice
from gatecore.algebra import Gate
from gatecore.backends.common.buffer_pool import Workspace
from gatecore.backends.common.layout import plan
from gatecore.backends.common.validation import (
    array,
    cell_of,
    check,
    keep_factors,
    layers_of,
    per_layer,
    state_parts,
    zoneout_amounts,
)
from gatecore.backends.numpy.loop import Loop
from gatecore.backends.numpy.steps import STEPS
from gatecore.mechanisms import Mechanism

Array = Any
MakeSteps = Callable[..., Loop]  # the arguments are those of Steps


IMPLS = ("auto", "native", "reference")


class Engine:
    """An array namespace, its memory, and the steps that run on it.

    Parameters
    ----------
    xp : array namespace
        With ``out=`` in its functions, as NumPy and CuPy have.
    steps : mapping of core name to Steps, or to what replaces them
    """

    def __init__(self, xp: Any, steps: Mapping[str, MakeSteps] = STEPS) -> None:
        self.xp, self.steps, self.workspace = xp, steps, Workspace(xp)

    def obstacle(self, dtype: Any) -> str | None:
        """Why the native library can't run layers of this dtype here; None if it can."""
        return "it works on NumPy's arrays, in the backends of the CPU"

    def check_impl(self, impl: str, dtype: Any) -> None:
        """Raise ValueError unless ``impl`` is one of ``IMPLS`` and can be taken."""
        choice("impl", impl, IMPLS)
        if impl == "native" and (reason := self.obstacle(dtype)):
            raise ValueError(
                f"impl='native' can't be taken: {reason}; use impl='auto' or 'reference'"
            )

    def layer(
        self,
        impl: str,
        cell: cells.Cell,
        params: Mapping[str, Array],
        take: Any,
        resets: Array | None,
        zoneout: Any,
        steps: tuple[int, int],
        dtype: Any,
        saves: bool = True,
    ) -> Any:
        """What runs one layer over one sequence; the arguments after ``impl`` are its own.

        ``impl`` has been checked; ``saves`` says whether a backward may follow.
        """
        return Layer(self, cell, params, take, resets, zoneout, steps, dtype)

    def matmul(self, left: Array, right: Array, out: Array | None = None) -> Array:
        """The product of two matrices, of any size: one call a sequence."""
        return self.xp.matmul(left, right, out=out)

    def product(self, weights: Array, batch: int) -> Callable[[Array], Array]:
        """A function that multiplies (batch, n) by these ``weights`` (n, m): one call a time step.

        What it returns may be overwritten by its next call.
        """
        weights = self.xp.ascontiguousarray(weights)
        out = self.xp.empty((batch, weights.shape[1]), dtype=weights.dtype)
        return lambda left: self.xp.matmul(left, weights, out=out)


def run(
    engine: Engine,
    core: str,
    params: Any,
    x: Array,
    state: Any,
    mechanism: str | Mechanism,
    resets: Array | None = None,
    zoneout: Any = None,
    return_cells: bool = False,
    impl: str = "auto",
    saves: bool = True,
) -> tuple[Any, Any, Any]:
    """One layer, or a stack of layers where ``params`` is a sequence of mappings.

    The third result is the derivative, a ``Pullback`` or a ``Stack`` of them; only its ``path`` can
    be asked if ``saves`` is false.
    """
    if not isinstance(params, Mapping):
        layers = layers_of(params)
        return _stack(
            engine, core, layers, x, state, mechanism, resets, zoneout, return_cells, impl, saves
        )
    cell = cell_of(core, params, x, mechanism)
    check(engine.xp, cell, params, x)
    engine.check_impl(impl, x.dtype)
    memory = Memory(engine.workspace, x.shape[:2], x.dtype)
    own, amounts = (_own(engine.xp, given) for given in (dict(params), zoneout))
    layer = engine.layer(impl, cell, own, memory.take, resets, amounts, x.shape[:2], x.dtype, saves)
    outputs, final = layer.forward(x, state, return_cells)
    return outputs, final, Pullback(layer, memory, return_cells)


class Memory:
    """What one run takes from a workspace, in the order it is taken."""

    def __init__(self, workspace: Workspace, steps: tuple[int, int], dtype: Any) -> None:
        self.workspace, self.steps, self.dtype = workspace, steps, dtype
        self.arrays: list[Array] = []

    def take(self, width: int, steps: bool = True, extra: int = 0) -> Array:
        """Memory (time + extra, batch, width), or (batch, width) of scratch."""
        time, batch = self.steps
        shape = (time + extra, batch, width) if steps else (batch, width)
        taken = self.workspace.take(shape, self.dtype)
        self.arrays.append(taken)
        return taken


class Layer:
    """One layer over one sequence: forward fills the memory that backward reads.

    Parameters
    ----------
    engine : Engine
    cell : Cell
    params : mapping of arrays, as ``Cell.init`` gives them
    take : callable
        See ``Memory.take``. It is called in the same order for equal arguments and nothing is
        read before it is written, so a layer can be made again from what another one filled.
    resets : bool array (time, batch), optional
    zoneout : amounts, optional
    steps : (time, batch)
    dtype : of all arrays
    """

    def __init__(
        self,
        engine: Engine,
        cell: cells.Cell,
        params: Mapping[str, Array],
        take: Any,
        resets: Array | None,
        zoneout: Any,
        steps: tuple[int, int],
        dtype: Any,
    ) -> None:
        self.engine, self.cell, self.params, self.dtype = engine, cell, params, dtype
        self.time, self.batch = steps
        self.plan = plan(cell)
        self.keep = keep_factors(resets, steps, dtype)
        zoneout = zoneout_amounts(cell, zoneout, steps, dtype)
        self.inputs = take(cell.input_size + 1)
        self.logits = take(self.plan.width)
        self.steps = engine.steps[cell.core](engine.xp, self.plan, self.logits, take, zoneout)
        if "bias_n" in params:
            self.steps.bias = engine.xp.array(params["bias_n"])
        self.path = self.steps.path
        self.input_weights = params["weight_ih"][self.plan.input_rows]
        self.state_weights = params["weight_hh"][self.plan.state_rows]

    def forward(self, x: Array, state: Any, return_cells: bool = False) -> tuple[Any, Any]:
        """All steps from x (time, batch, input): the outputs, and the last state."""
        self._project(x)
        self._start(state)
        shown = 2 if return_cells else 1
        outputs = self.steps.sweep(self.engine, self.state_weights, self.keep, shown)
        final = self._packed([states[-1].copy() for states in self.steps.states])
        return outputs if return_cells else outputs[0], final

    def _project(self, x: Array) -> None:
        """The input's part of all logits, by one product: x beside ones, for the bias."""
        xp, rows = self.engine.xp, self.plan.input_rows
        self.inputs[..., :-1] = x
        self.inputs[..., -1] = 1
        weights = xp.empty((self.inputs.shape[2], len(rows)), dtype=self.dtype)
        weights[:-1] = self.input_weights.T
        weights[-1] = self.params["bias"][rows]
        projected = _flat(self.logits)[:, self.plan.input_window]
        self.engine.matmul(_flat(self.inputs), weights, out=projected)

    def _start(self, state: Any) -> None:
        given = state_parts(self.cell, state, (self.batch, self.plan.hidden_size), self.dtype)
        for states, first in zip(self.steps.states, given, strict=True):
            states[0] = 0 if first is None else first

    def _packed(self, states: Sequence[Array]) -> Any:
        return tuple(states) if self.cell.core == "lstm" else states[0]

    def scratch_shape(self, wrt_x: bool) -> tuple[int, ...]:
        """Of the memory that :meth:`backward` works in: the logits' cotangents."""
        return self.logits.shape

    def backward(
        self, d_outputs: Sequence[Array | None], d_state: Any, d_logits: Array, wrt_x: bool = True
    ) -> tuple[dict[str, Array], Array | None, Any]:
        """Cotangents of the parameters, of x (or None), and of the initial state.

        ``d_outputs`` are those of the outputs; ``d_logits`` is scratch of :meth:`scratch_shape`.
        """
        shape = (self.time, self.batch, self.plan.hidden_size)
        for part in d_outputs:
            if part is not None:
                array("d_output", part, shape, self.dtype, "(time, batch, hidden)")
        d_start = self._backward_loop(d_logits, d_outputs, d_state)
        return self._gradients(d_logits), self._d_x(d_logits) if wrt_x else None, d_start

    def _backward_loop(self, d_logits: Array, given: Sequence[Array | None], d_state: Any) -> Any:
        steps, shape = self.steps, (self.batch, self.plan.hidden_size)
        last = state_parts(self.cell, d_state, shape, self.dtype, "d_state")
        for running, value in zip(steps.cotangents, last, strict=True):
            running[...] = 0 if value is None else value
        steps.sweep_back(self.engine, self.state_weights, self.keep, d_logits, given)
        return self._packed([running.copy() for running in steps.cotangents])

    def _gradients(self, d_logits: Array) -> dict[str, Array]:
        xp, rows, multiply = self.engine.xp, self.plan.input_rows, self.engine.matmul
        flat = _flat(d_logits)
        inner = multiply(flat[:, self.plan.input_window].T, _flat(self.inputs))
        state = multiply(flat[:, self.plan.state_window].T, _flat(self.steps.hidden[:-1]))
        gradients = {name: xp.empty_like(self.params[name]) for name in self.params}
        gradients["weight_ih"][rows] = inner[:, :-1]
        gradients["bias"][rows] = inner[:, -1]
        gradients["weight_hh"][self.plan.state_rows] = state
        if "bias_n" in gradients:
            gradients["bias_n"][...] = d_logits[..., self.plan.input_window.stop :].sum((0, 1))
        return gradients

    def _d_x(self, d_logits: Array) -> Array:
        logits = _flat(d_logits)[:, self.plan.input_window]
        d_x = self.engine.matmul(logits, self.input_weights)
        return d_x.reshape(self.time, self.batch, self.cell.input_size)

    def forget_gate(self) -> Gate:
        """The effective forget gate of every step, (time, batch, hidden) each side."""
        forget, _ = self.cell.mechanism.combine(self.steps.gates())
        return Gate(*(self.engine.xp.array(side) for side in forget))


class Pullback:
    """The derivative of one layer's run: ``pullback(d_output, d_state=None)``.

    Returns (d_params, d_x, d_state). It can be called again, and keeps what it saved to itself
    until it is dropped. ``wrt_x=False`` leaves d_x out (None), which saves a product.
    """

    def __init__(self, layer: Layer, memory: Memory, return_cells: bool) -> None:
        self._layer, self._return_cells, self._workspace = layer, return_cells, memory.workspace
        give = weakref.finalize(self, memory.workspace.give, memory.arrays)
        give.atexit = False

    def __call__(
        self, d_output: Any, d_state: Any = None, *, wrt_x: bool = True
    ) -> tuple[dict[str, Array], Array | None, Any]:
        if self._return_cells and not (isinstance(d_output, tuple | list) and len(d_output) == 2):
            raise ValueError("d_output must be a pair: of the hidden and of the cell states")
        scratch = self._workspace.take(self._layer.scratch_shape(wrt_x), self._layer.dtype)
        try:
            parts = d_output if self._return_cells else (d_output,)
            return self._layer.backward(parts, d_state, scratch, wrt_x)
        finally:
            self._workspace.give([scratch])

    @property
    def path(self) -> str:
        """What ran the steps: "array operations", or the name of what replaces them."""
        return self._layer.path

    def gates(self) -> Gate:
        """The effective forget gate at every step: both sides (time, batch, hidden)."""
        return self._layer.forget_gate()


class Stack:
    """The derivative of a stack of layers: lists, one entry a layer, for parameters and states."""

    def __init__(self, pullbacks: list[Any]) -> None:
        self._pullbacks = pullbacks

    def __call__(
        self, d_output: Any, d_state: Any = None, *, wrt_x: bool = True
    ) -> tuple[list[dict[str, Array]], Array | None, list[Any]]:
        states = per_layer("d_state", d_state, len(self._pullbacks), list | tuple)
        d_params: list[Any] = []
        d_states: list[Any] = []
        for k, pullback in reversed(list(enumerate(self._pullbacks))):
            d_layer, d_output, d_start = pullback(d_output, states[k], wrt_x=wrt_x or k > 0)
            d_params.insert(0, d_layer)
            d_states.insert(0, d_start)
        return d_params, d_output, d_states

    @property
    def path(self) -> list[str]:
        """What ran the steps of each layer."""
        return [pullback.path for pullback in self._pullbacks]

    def gates(self) -> list[Gate]:
        """The effective forget gates of each layer."""
        return [pullback.gates() for pullback in self._pullbacks]


def _stack(
    engine: Engine,
    core: str,
    params: Sequence[Mapping[str, Array]],
    x: Array,
    state: Any,
    mechanism: str | Mechanism,
    resets: Array | None,
    zoneout: Any,
    return_cells: bool,
    impl: str,
    saves: bool,
) -> tuple[Any, list[Any], Stack]:
    count = len(params)
    states = per_layer("state", state, count, list | tuple)
    amounts = per_layer("zoneout", zoneout, count)
    output, finals, pullbacks = x, [], []
    for k, layer in enumerate(params):
        cells_wanted = return_cells and k == count - 1
        output, final, pullback = run(
            engine, core, layer, output, states[k], mechanism, resets, amounts[k], cells_wanted,
            impl, saves,
        )  # fmt: skip
        finals.append(final)
        pullbacks.append(pullback)
    return output, finals, Stack(pullbacks)


def _own(xp: Any, given: Any) -> Any:
    """Copies of arrays: a pullback must not see what its caller does to them afterwards."""
    if isinstance(given, dict):
        return {name: _own(xp, value) for name, value in given.items()}
    if isinstance(given, tuple):
        return tuple(_own(xp, value) for value in given)
    return xp.array(given, order="C") if getattr(given, "ndim", 0) else given


def _flat(steps: Array) -> Array:
    """(time, batch, width) as (time * batch, width)."""
    return steps.reshape(-1, steps.shape[-1])
