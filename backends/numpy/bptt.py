"""A whole sequence forward, and its pullback: manual BPTT for every cell and mechanism.

The input projection is one product over all time, and so is each weight gradient; the time loop
(``steps``) multiplies by the recurrent weights and steps, and allocates nothing.
"""

import dataclasses
import functools
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.common import validation
from gatecore.backends.common.buffer_pool import BufferPool
from gatecore.backends.common.implementation import choose
from gatecore.backends.common.layout import layout_of
from gatecore.backends.common.validation import check_array, per_layer
from gatecore.backends.numpy.layer_norm import LayerNorm, layer_norms
from gatecore.backends.numpy.steps import STEPS
from gatecore.cells import Cell
from gatecore.mechanisms import Mechanism

Array = Any
States = Sequence[Array | None]
Gradients = tuple[dict[str, Array], Array | None, tuple[Array, ...]]


class Engine:
    """An array namespace with its buffer pool, matrix products and implementations.

    The functions of ``xp`` take ``out=``, as NumPy's and CuPy's. ``implementations`` are classes in
    order of preference, with the interface of :class:`Layer`, the only one by default. ``threads``
    returns the number of threads that the native library may use.
    """

    def __init__(self, xp: Any, implementations: Sequence[Any] = (),
                 threads: Callable[[], int] | None = None) -> None:  # fmt: skip
        self.xp, self.pool, self.threads = xp, BufferPool(xp), threads
        self.implementations = implementations or (Layer,)

    def matmul(self, left: Array, right: Array, out: Array | None = None) -> Array:
        """The product of two matrices, of any size: one call a sequence."""
        return self.xp.matmul(left, right, out=out)

    def product(self, weights: Array, batch: int) -> Callable[[Array], Array]:
        """A function that multiplies (batch, n) by these ``weights`` (n, m): one call a time step.

        Its next call may overwrite what it returned.
        """
        weights = self.xp.ascontiguousarray(weights)
        out = self.xp.empty((batch, weights.shape[1]), dtype=weights.dtype)
        return lambda left: self.xp.matmul(left, weights, out=out)


@dataclasses.dataclass(frozen=True)
class Call:
    """The arguments of one layer over one sequence, but for its input and initial state."""

    engine: Engine
    cell: Cell
    params: Mapping[str, Array]  # as ``Cell.init`` returns them
    steps: tuple[int, int]  # (time, batch)
    dtype: Any  # of all arrays
    resets: Array | None = None  # bool (time, batch)
    zoneout: tuple[Any, ...] | None = None  # probabilities or masks (time, batch, hidden): cell, h
    return_cells: bool = False
    save_for_backward: bool = True  # whether a backward pass may follow

    def __post_init__(self) -> None:
        zoneout = validation.check_zoneout(self.cell, self.zoneout, self.steps, self.dtype)
        vars(self)["zoneout"] = zoneout  # the class is frozen
        if self.resets is not None:
            check_array("resets", self.resets, self.steps, "bool", "(time, batch)")

    @property
    def output_shape(self) -> tuple[int, int, int]:
        """(time, batch, hidden)."""
        return (*self.steps, self.cell.hidden_size)

    def cotangents(self, d_outputs: States, d_states: States) -> tuple[States, States]:
        """The cotangents of the outputs and of the parts of the last state, checked."""
        for part in d_outputs:
            if part is not None:
                axes = "(time, batch, hidden)"
                check_array("d_output", part, self.output_shape, self.dtype, axes)
        return d_outputs, self.states("d_state", d_states)

    def states(self, name: str, parts: States) -> States:
        """The parts of a state called ``name``, checked; None for all zeros if there are none."""
        for part in parts:
            if part is not None:
                check_array(name, part, self.output_shape[1:], self.dtype, "(batch, hidden)")
        return parts or (None,) * len(self.cell.state_names)


def run(
    engine: Engine, core: str, params: Any, x: Array, state: Any = None,
    mechanism: str | Mechanism = "UR", *, resets: Array | None = None, zoneout: Any = None,
    return_cells: bool = False, impl: str = "auto", save_for_backward: bool = True, **fields: Any,
) -> tuple[Any, Any, Any]:  # fmt: skip
    """One layer, or a stack of layers where ``params`` is a sequence of mappings.

    ``fields`` are further ones of the cell. The third result is the derivative, a ``Pullback`` or a
    ``Stack`` of them; without ``save_for_backward`` it only has ``impl``.
    """
    return_cells = _checks.flag("return_cells", return_cells)
    stacked = not isinstance(params, Mapping)
    layers = validation.layers_of(params) if stacked else [params]
    count = len(layers)
    states = per_layer("state", state, count, list | tuple) if stacked else [state]
    zoneouts = per_layer("zoneout", zoneout, count) if stacked else [zoneout]
    xp, outputs, finals, pullbacks = engine.xp, x, [], []
    for k, layer in enumerate(layers):
        cell = validation.cell_of(core, layer, outputs, mechanism, **fields)
        validation.check_numbers(xp, layer, outputs)
        steps, dtype, cells = outputs.shape[:2], outputs.dtype, return_cells and k == count - 1
        amounts = validation.zoneout_parts(cell, zoneouts[k])
        values, zoned = (_copy(xp, v) for v in (dict(layer), amounts))
        call = Call(engine, cell, values, steps, dtype, resets, zoned, cells, save_for_backward)
        arrays: list[Array] = []  # that the layer acquires
        acquire = functools.partial(_acquire, call, arrays)
        one = choose(engine.implementations, impl, call)(call, acquire)
        outputs, final = one.forward(outputs, cell.parts(states[k]))
        outputs = outputs if call.return_cells else outputs[0]
        finals.append(cell.state(final))
        pullbacks.append(Pullback(one, call, arrays))
    return (outputs, finals, Stack(pullbacks)) if stacked else (outputs, finals[0], pullbacks[0])


class Layer:
    """The reference implementation: one layer over one sequence by array operations.

    ``acquire(width, steps=True, extra=0)`` is an array (time + extra, batch, width) that is saved
    for the pullback, or (batch, width) of scratch. It is called in the same order for equal calls
    and nothing is read before it is written, so a backward pass can make the layer again from saved
    arrays.
    """

    name = "reference"

    @staticmethod
    def unsupported(call: Call, /) -> str | None:
        """Why it cannot run ``call``: it can."""
        return None

    def __init__(self, call: Call, acquire: Any) -> None:
        self.call, self.engine, self.params = call, call.engine, call.params
        self.layout = layout_of(call.cell)
        self.resets = None if call.resets is None else call.resets.copy()
        self.inputs = acquire(call.cell.input_size + 1)
        self.logits = acquire(self.layout.width)
        self.steps = self._steps(acquire)
        if "bias_n" in self.params:
            self.steps.bias = self.engine.xp.array(self.params["bias_n"])
        self.norms: dict[str, LayerNorm] = {}
        if call.cell.layer_norm:
            self.norms = layer_norms(self.engine.xp, acquire, self.layout, self.params)
            self.steps.norms = self.norms
        self.input_weights = self.params["weight_ih"][self.layout.input_rows]
        recurrent = self.params.get("weight_hh")  # None where the gates do not depend on the state
        self.state_weights = None if recurrent is None else recurrent[self.layout.state_rows]

    def _steps(self, acquire: Any) -> Any:
        make = STEPS[self.call.cell.core]
        return make(self.engine.xp, self.layout, self.logits, acquire, self.call.zoneout)

    def forward(self, x: Array, initial: States) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The outputs of all steps from x (time, batch, input), and the parts of the last state."""
        rows = self.layout.input_rows  # one product projects all steps: x beside ones, for the bias
        self.inputs[..., :-1] = x
        self.inputs[..., -1] = 1
        weights = self.engine.xp.empty((self.inputs.shape[2], len(rows)), dtype=self.call.dtype)
        weights[:-1] = self.input_weights.T
        weights[-1] = 0 if self.norms else self.params["bias"][rows]
        projected = _flat(self.logits)[:, self.layout.input_window]
        self.engine.matmul(_flat(self.inputs), weights, out=projected)
        parts, count = self.call.states("state", initial), 1 + self.call.return_cells
        for states, part in zip(self.steps.states, parts, strict=True):
            states[0] = 0 if part is None else part
        outputs = self.steps.scan(self.engine, self.state_weights, self.resets, count)
        return outputs, tuple(states[-1].copy() for states in self.steps.states)

    def scratch_shape(self, wrt_x: bool) -> tuple[int, ...]:
        """The shape of :meth:`backward`'s scratch: the logits' cotangents."""
        return (*self.call.steps, self.layout.scratch_width)

    def backward(self, d_outputs: States, d_states: States, scratch: Array,
                 wrt_x: bool = True) -> Gradients:  # fmt: skip
        """Cotangents of the parameters, of x (or None), and of the parts of the initial state."""
        d_outputs, d_states = self.call.cotangents(d_outputs, d_states)
        for cotangent, last in zip(self.steps.cotangents, d_states, strict=True):
            cotangent[...] = 0 if last is None else last
        self.steps.scan_backward(self.engine, self.state_weights, self.resets, scratch, d_outputs)
        d_initial = tuple(c.astype(self.call.dtype) for c in self.steps.cotangents)
        d_params, d_x = self._d_params(scratch), None
        if wrt_x:
            logits = _flat(scratch)[:, self.layout.input_window]
            d_x = self.engine.matmul(logits, self.input_weights)
            d_x = d_x.reshape(*self.call.steps, self.call.cell.input_size)
        return d_params, d_x, d_initial

    def _d_params(self, d_logits: Array) -> dict[str, Array]:
        layout, multiply, flat = self.layout, self.engine.matmul, _flat(d_logits)
        inner = multiply(flat[:, layout.input_window].T, _flat(self.inputs))
        gradients = {k: self.engine.xp.empty_like(value) for k, value in self.params.items()}
        gradients["weight_ih"][layout.input_rows] = inner[:, :-1]
        gradients["bias"][layout.input_rows] = inner[:, -1]
        if "weight_hh" in gradients:
            state = multiply(flat[:, layout.product_window].T, _flat(self.steps.hidden[:-1]))
            gradients["weight_hh"][layout.state_rows] = state
        if "bias_n" in gradients:
            last = slice(layout.input_window.stop, layout.width)
            gradients["bias_n"][...] = d_logits[..., last].sum((0, 1))
        for name, norm in self.norms.items():
            rows = {"norm_ih": layout.input_rows, "norm_hh": layout.state_rows}.get(name, ...)
            gradients[name][rows] = norm.d_gain
            if norm.bias is not None:
                bias = "bias" if name == "norm_ih" else f"{name}_bias"
                gradients[bias][rows] = norm.d_bias
        return gradients

    def forget_gate(self, main: bool = False) -> Gate:
        """The effective or the main forget gate of every step, (time, batch, hidden) each side."""
        gates = self.steps.gates()
        forget = gates["forget"] if main else self.call.cell.mechanism.combine(gates)[0]
        return Gate(*(self.engine.xp.array(side) for side in forget))


class Pullback:
    """The derivative of one layer's run: ``pullback(d_output, d_state=None)``.

    Returns (d_params, d_x, d_state). It can be called again; the arrays that it saved return to the
    pool when it is dropped. ``wrt_x=False`` leaves d_x out (None), which saves a product.
    """

    def __init__(self, layer: Any, call: Call, arrays: list[Array]) -> None:
        self._layer, self._call = layer, call
        finalizer = weakref.finalize(self, call.engine.pool.release, arrays)
        finalizer.atexit = False

    def __call__(self, d_output: Any, d_state: Any = None, *,
                 wrt_x: bool = True) -> tuple[dict[str, Array], Array | None, Any]:  # fmt: skip
        call, pool = self._call, self._call.engine.pool
        d_outputs = d_output if call.return_cells else (d_output,)
        if not isinstance(d_outputs, tuple | list) or len(d_outputs) != 1 + call.return_cells:
            raise ValueError("d_output must be a pair, of the hidden and of the cell states")
        d_last = call.cell.parts(d_state, "d_state")
        scratch = pool.acquire(self._layer.scratch_shape(wrt_x), call.dtype)
        try:
            d_params, d_x, d_initial = self._layer.backward(d_outputs, d_last, scratch, wrt_x)
        finally:
            pool.release([scratch])
        return d_params, d_x, call.cell.state(d_initial)

    @property
    def impl(self) -> str:
        """The name of the implementation that ran, as ``impl=`` takes it."""
        return self._layer.name

    path = impl

    def gates(self, main: bool = False) -> Gate:
        """The effective forget gate at every step: both sides (time, batch, hidden).

        With ``main`` the gate f itself, before a refine or master gate.
        """
        return self._layer.forget_gate(main)


class Stack:
    """The derivative of stacked layers: lists, one entry a layer, for parameters and states."""

    def __init__(self, pullbacks: list[Pullback]) -> None:
        self._pullbacks = pullbacks

    def __call__(
        self, d_output: Any, d_state: Any = None, *, wrt_x: bool = True
    ) -> tuple[list[dict[str, Array]], Array | None, list[Any]]:
        states = per_layer("d_state", d_state, len(self._pullbacks), list | tuple)
        d_params, d_states = [*states], [*states]
        for k, pullback in reversed([*enumerate(self._pullbacks)]):
            d_params[k], d_output, d_states[k] = pullback(d_output, states[k], wrt_x=wrt_x or k > 0)
        return d_params, d_output, d_states

    @property
    def impl(self) -> list[str]:
        """The name of the implementation that ran each layer."""
        return [pullback.impl for pullback in self._pullbacks]

    path = impl

    def gates(self, main: bool = False) -> list[Gate]:
        """The forget gates of each layer."""
        return [pullback.gates(main) for pullback in self._pullbacks]


def _acquire(call: Call, arrays: list[Array], width: int, steps: bool = True,
             extra: int = 0) -> Array:  # fmt: skip
    """An array of the engine's pool, as a layer acquires it, added to ``arrays``."""
    time, batch = call.steps
    shape = (time + extra, batch, width) if steps else (batch, width)
    arrays.append(call.engine.pool.acquire(shape, call.dtype))
    return arrays[-1]


def _copy(xp: Any, value: Any) -> Any:
    """Copies of arrays: a pullback must not see what its caller does to them afterwards."""
    if isinstance(value, dict):
        return {name: _copy(xp, entry) for name, entry in value.items()}
    if isinstance(value, tuple):
        return tuple(_copy(xp, entry) for entry in value)
    return xp.array(value, order="C") if getattr(value, "ndim", 0) else value


def _flat(steps: Array) -> Array:
    """(time, batch, width) as (time * batch, width)."""
    return steps.reshape(-1, steps.shape[-1])
