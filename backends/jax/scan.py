"""One layer over a whole sequence by ``lax.scan``, with a derivative of its own.

All weights of a cell are one matrix that multiplies [x, h], so a step is one product and one
elementwise part. The backward scan reads the logits and states that the forward one saved, and the
gradient of the weights is one product over all time. States are tuples here, the hidden one first.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from gatecore.backends.jax.derivative import step_backward
from gatecore.cells import CELLS, STATE_CANDIDATE, Cell
from gatecore.mechanisms import Mechanism

Array = jax.Array
State = tuple[Array, ...]


class Layer(NamedTuple):
    """What is static about a run."""

    core: str
    mechanism: Mechanism
    input_size: int
    hidden_size: int

    @property
    def cell(self) -> Cell:
        """The cell whose steps are run."""
        return CELLS[self.core](self.input_size, self.hidden_size, self.mechanism)

    @property
    def slots(self) -> tuple[tuple[str, int], ...]:
        """The columns of the logits: the cell's slots, and the GRU's second candidate part."""
        extra = ((STATE_CANDIDATE, self.hidden_size),) if self.core == "gru" else ()
        return (*self.cell.slots, *extra)

    def split(self, packed: Array) -> dict[str, Array]:
        """The slots (..., width) of packed logits (..., columns)."""
        parts, start = {}, 0
        for name, width in self.slots:
            parts[name] = packed[..., start : start + width]
            start += width
        return parts

    def whole(self, parts: State) -> Any:
        """The cell's form of a state."""
        return self.cell.state(parts)


class Sequence(NamedTuple):
    """What a layer runs over."""

    x: Any  # array (time, batch, input); None where it is not needed
    resets: Array | None  # bool (time, batch, 1)
    zoneout: Any  # amounts, each (time, batch, hidden) or (time, 1, 1); not differentiated


def pack(layer: Layer, params: Any, dtype: Any) -> tuple[Array, Array]:
    """The weights as one matrix (input + hidden, columns), and the bias (1, columns) in ``dtype``.

    A candidate of the GRU has two columns, for its input's part and its state's.
    """
    inner, outer, bias = params["weight_ih"], params["weight_hh"], params["bias"].astype(dtype)
    if layer.core == "gru":
        blocks = {k: v.T for k, v in layer.cell.split(outer.T).items()}
        extra = blocks["candidate"]
        blocks["candidate"] = jnp.zeros_like(extra)
        outer = jnp.concatenate([*blocks.values(), extra])
        inner = jnp.pad(inner, ((0, len(extra)), (0, 0)))
        bias = jnp.concatenate([bias, params["bias_n"].astype(dtype)])
    return jnp.concatenate([inner.T, outer.T]), bias[None]


def forward(
    layer: Layer, matrix: Array, bias: Array, start: State, sequence: Sequence
) -> tuple[State, State, tuple[State, Array]]:
    """The states after each step, the last one, and what a backward scan reads of each step.

    That is the state it started from, and its logits (time, batch, columns).
    """

    def one(state: State, now: Sequence) -> tuple[State, Any]:
        state = _reset(state, now.resets)
        new, packed = step(layer, matrix, bias, state, now.x, now.zoneout)
        return new, (new, (state, packed))

    last, (states, saved) = lax.scan(one, start, sequence)
    return states, last, saved


def step(
    layer: Layer, matrix: Array, bias: Array, state: State, x: Array, zoneout: Any = None
) -> tuple[State, Array]:
    """One step from x (batch, input): the next state, and the logits (batch, columns)."""
    cell = layer.cell
    packed = product(_joint(x, state[0]), matrix) + bias
    logits = layer.split(packed)
    return cell.complete(logits, cell.mechanism.gates(logits), state, zoneout), packed


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def explicit(
    layer: Layer, shown: int, matrix: Array, bias: Array, start: State, sequence: Sequence
) -> tuple[State, State]:
    """The first ``shown`` states after each step, and the last one; reverse mode by hand."""
    states, last, _ = forward(layer, matrix, bias, start, sequence)
    return states[:shown], last


def _explicit_forward(
    layer: Layer, shown: int, matrix: Array, bias: Array, start: State, sequence: Sequence
) -> tuple[Any, Any]:
    states, last, saved = forward(layer, matrix, bias, start, sequence)
    return (states[:shown], last), (matrix, sequence, *saved)


def _explicit_backward(layer: Layer, shown: int, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    matrix, sequence, before, logits = saved
    d_start, d_logits = _backward_scan(layer, matrix, sequence, before, logits, cotangents)
    ones = jnp.ones((*d_logits.shape[:2], 1), matrix.dtype)
    joint = _flat(jnp.concatenate([_joint(sequence.x, before[0]), ones], axis=-1))
    # this order of factors (and in `pack` no transpose of the whole, which would turn it round):
    # for the transposed product XLA takes twice as long on a CPU
    d_weights = product(joint.T, _flat(d_logits).astype(matrix.dtype))
    d_x = product(d_logits, matrix[: layer.input_size].T).astype(matrix.dtype)
    d_zoneout = jax.tree.map(jnp.zeros_like, sequence.zoneout)
    d_sequence = Sequence(d_x, None, d_zoneout)
    return d_weights[:-1].astype(matrix.dtype), d_weights[-1:], d_start, d_sequence


explicit.defvjp(_explicit_forward, _explicit_backward)


def _backward_scan(
    layer: Layer, matrix: Array, sequence: Sequence, before: State, logits: Array, cotangents: Any
) -> tuple[State, Array]:
    """Cotangents of the initial state, and of all logits."""
    recurrent = matrix[layer.input_size :].T

    def one(d_state: State, now: Any) -> tuple[State, Array]:
        sequence, given, state, packed = now
        d_new = (*(a + b for a, b in zip(d_state, given, strict=False)), *d_state[len(given) :])
        d_slots, d_old = step_backward(
            layer.cell, layer.split(packed), state, sequence.zoneout, d_new
        )
        d_packed = jnp.concatenate([d_slots[name] for name, _ in layer.slots], axis=-1)
        d_hidden, *d_rest = d_old
        d_hidden = d_hidden + product(d_packed, recurrent)
        return _reset((d_hidden, *d_rest), sequence.resets), d_packed

    given, d_last = cotangents
    steps = (sequence._replace(x=None), given, before, logits)
    return lax.scan(one, d_last, steps, reverse=True)


def product(a: Array, b: Array) -> Array:
    """A (..., n) times b (n, m) in the type of b, summed in float32 at least."""
    return jnp.matmul(a.astype(b.dtype), b, preferred_element_type=widened(b.dtype))


def widened(dtype: Any) -> Any:
    """The type of gates and states beside weights of type ``dtype``: float32 at least."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def _joint(x: Any, hidden: Array) -> Array:
    return jnp.concatenate([x, hidden.astype(x.dtype)], axis=-1)


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def _reset(state: State, resets: Array | None) -> State:
    if resets is None:
        return state
    return tuple(jnp.where(resets, jnp.zeros_like(part), part) for part in state)
