"""A layer over a whole sequence by ``lax.scan``, and its derivative by manual BPTT.

All weights of a cell are one matrix that multiplies [x, h], so a step is one product and one
elementwise part. The backward scan reads the logits and states that the forward scan saved, and the
gradient of the weights is one product over all time. States are tuples of parts, hidden first.
"""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gatecore.backends.jax.arguments import Arguments, States, widened
from gatecore.backends.jax.derivative import step_backward
from gatecore.cells import STATE_CANDIDATE, Cell

Array = jax.Array


def forward(cell: Cell, num_outputs: int, saves: bool,
            arguments: Arguments) -> tuple[States, States, Any]:  # fmt: skip
    """The forward pass; ``backward`` reads the state before each step, and its logits."""
    matrix, bias = pack(cell, arguments.params)

    def body(state: States, now: Any) -> tuple[States, Any]:
        x, resets, zoneout = now
        state = reset(state, resets)
        new, logits = step(cell, matrix, bias, state, x, zoneout)
        return new, (new, (state, logits) if saves else None)

    final, (states, saved) = lax.scan(body, arguments.initial, arguments[2:])
    return states[:num_outputs], final, saved


def backward(cell: Cell, num_outputs: int, wrt_x: bool, arguments: Arguments, saved: Any,
             cotangents: Any) -> tuple[dict[str, Array], States, Array]:  # fmt: skip
    """The backward pass: cotangents of the parameters, of the initial state, and of x."""
    matrix, _ = pack(cell, arguments.params)
    before, _ = saved
    d_initial, d_logits = _backward_scan(cell, matrix, arguments, saved, cotangents)
    d_params = parameter_cotangents(cell, arguments.params, arguments.x, before[0], d_logits)
    d_x = product(d_logits, matrix[: cell.input_size].T).astype(matrix.dtype)
    return d_params, d_initial, d_x


def parameter_cotangents(cell: Cell, params: Mapping[str, Array], x: Array, hidden: Array,
                         d_logits: Array) -> dict[str, Array]:  # fmt: skip
    """Cotangents of the parameters from those of all logits (time, batch, columns).

    ``hidden`` (time, batch, hidden) are the hidden states before each step.
    """
    (matrix, _), unpack = jax.vjp(functools.partial(pack, cell), params)
    ones = jnp.ones((*d_logits.shape[:2], 1), matrix.dtype)
    joint = _flat(jnp.concatenate([_joint(cell, x, hidden), ones], axis=-1))
    # this order of factors (and in `pack` no transpose of the whole, which would turn it round):
    # for the transposed product XLA takes twice as long on a CPU
    d_weights = product(joint.T, _flat(d_logits).astype(matrix.dtype))
    (d_params,) = unpack((d_weights[:-1].astype(matrix.dtype), d_weights[-1:]))
    return d_params


def pack(cell: Cell, params: Mapping[str, Array]) -> tuple[Array, Array]:
    """The weights as one matrix (input + hidden, columns), and the bias (1, columns).

    Without recurrent weights it is (input, columns). The candidate of a GRU has two columns, for
    its input's part and its state's.
    """
    weight_ih, bias = params["weight_ih"], params["bias"]
    bias = bias.astype(widened(weight_ih.dtype))
    if not cell.recurrent:
        return weight_ih.T, bias[None]
    weight_hh = params["weight_hh"]
    if "bias_n" in params:
        blocks = {name: block.T for name, block in cell.split(weight_hh.T).items()}
        state_candidate = blocks["candidate"]
        blocks["candidate"] = jnp.zeros_like(state_candidate)
        weight_hh = jnp.concatenate([*blocks.values(), state_candidate])
        weight_ih = jnp.pad(weight_ih, ((0, cell.hidden_size), (0, 0)))
        bias = jnp.concatenate([bias, params["bias_n"].astype(bias.dtype)])
    return jnp.concatenate([weight_ih.T, weight_hh.T]), bias[None]


def step(cell: Cell, matrix: Array, bias: Array, state: States, x: Array,
         zoneout: Any = None) -> tuple[States, Array]:  # fmt: skip
    """One step from x (batch, input): the next state, and the logits (batch, columns)."""
    packed = product(_joint(cell, x, state[0]), matrix) + bias
    logits = split(columns(cell), packed)
    return cell.complete(logits, cell.mechanism.gates(logits), state, zoneout), packed


def columns(cell: Cell) -> tuple[tuple[str, int], ...]:
    """The slots of packed logits: the cell's, and a GRU's U h + b_n."""
    extra = ((STATE_CANDIDATE, cell.hidden_size),) if "bias_n" in cell.parameter_shapes() else ()
    return (*cell.slots, *extra)


def split(slots: Iterable[tuple[str, int]], packed: Array) -> dict[str, Array]:
    """The slots (..., width) of packed logits (..., columns)."""
    parts, start = {}, 0
    for name, width in slots:
        parts[name] = packed[..., start : start + width]
        start += width
    return parts


def _backward_scan(cell: Cell, matrix: Array, arguments: Arguments, saved: Any,
                   cotangents: Any) -> tuple[States, Array]:  # fmt: skip
    """Cotangents of the initial state, and of all logits."""
    recurrent, slots = matrix[cell.input_size :].T, columns(cell)

    def body(d_state: States, now: Any) -> tuple[States, Array]:
        (state, packed), resets, zoneout, d_outputs = now
        d_new = (*map(jnp.add, d_state, d_outputs), *d_state[len(d_outputs) :])
        d_slots, d_old, _ = step_backward(cell, split(slots, packed), state, zoneout, d_new)
        d_packed = jnp.concatenate([d_slots[name] for name, _ in slots], axis=-1)
        d_old = (d_old[0] + product(d_packed, recurrent), *d_old[1:])
        return reset(d_old, resets), d_packed

    d_outputs, d_final = cotangents
    steps = (saved, arguments.resets, arguments.zoneout, d_outputs)
    return lax.scan(body, d_final, steps, reverse=True)


def product(a: Array, b: Array) -> Array:
    """A (..., n) times b (n, m) in the type of b, summed in float32 at least."""
    return jnp.matmul(a.astype(b.dtype), b, preferred_element_type=widened(b.dtype))


def _joint(cell: Cell, x: Any, hidden: Array) -> Array:
    if not cell.recurrent:
        return x
    return jnp.concatenate([x, hidden.astype(x.dtype)], axis=-1)


def _flat(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])


def reset(state: States, resets: Array | None) -> States:
    """The state, zero where bool ``resets`` (batch, 1) is true."""
    if resets is None:
        return state
    return tuple(jnp.where(resets, jnp.zeros_like(part), part) for part in state)
