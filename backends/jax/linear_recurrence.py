"""A layer whose gates do not depend on the state, by ``lax.associative_scan`` or step by step.

The states alone are saved: the backward pass computes gates and candidates again.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gatecore.backends.common.linear_recurrence import (
    Steps,
    advance_compensated,
    backward_steps,
    compose,
    forward_steps,
    logits_vjp,
)
from gatecore.backends.jax import normalized
from gatecore.backends.jax.arguments import Arguments, States, widened
from gatecore.backends.jax.implementation import Call, Implementation
from gatecore.backends.jax.scan import product
from gatecore.cells import Cell

Array = jax.Array
Scan = Callable[[Steps, bool], Array]  # the states after all steps, from the last one on if True


def unsupported(call: Call) -> str | None:
    """Why the scan cannot run the call; None if it can."""
    return "its gates depend on the state" if call.recurrent else None


def forward(scan: Scan, cell: Cell, num_outputs: int, saves: bool,
            arguments: Arguments) -> tuple[States, States, Any]:  # fmt: skip
    """The forward pass; ``backward`` reads the states after each step."""
    (start,) = arguments.initial
    if not len(arguments.x):
        return (jnp.zeros((0, *start.shape), start.dtype),), (start,), None
    steps = forward_steps(cell, logits_of(cell, arguments), start, *_extras(arguments))
    hidden = scan(steps, False)
    return (hidden,), (hidden[-1],), hidden if saves else None


def backward(scan: Scan, cell: Cell, num_outputs: int, wrt_x: bool, arguments: Arguments,
             saved: Any, cotangents: Any) -> tuple[dict[str, Array], States, Array]:  # fmt: skip
    """The backward pass: cotangents of the parameters, of the initial state, and of x."""
    ((d_output,), (d_state,)), (start,) = cotangents, arguments.initial
    params, x = arguments.params, arguments.x
    if not len(x):
        return jax.tree.map(jnp.zeros_like, dict(params)), (d_state,), jnp.zeros_like(x)
    logits, (resets, zoneout) = logits_of(cell, arguments), _extras(arguments)
    steps, first = backward_steps(cell, logits, d_output, d_state, resets, zoneout)
    d_hidden = scan(steps, True)
    before, d_start = jnp.concatenate([start[None], saved[:-1]]), first * d_hidden[0]
    if resets is not None:
        before = jnp.where(resets, jnp.zeros_like(before), before)
        d_start = jnp.where(resets[0], jnp.zeros_like(d_start), d_start)
    d_logits = logits_vjp(cell, logits, before, d_hidden, zoneout)
    d_params = {"bias": d_logits.sum((0, 1))}
    if cell.layer_norm:
        d_logits, d_params = normalized.projection_backward(params, x, d_logits)
    flat, weight = d_logits.reshape(-1, cell.rows), params["weight_ih"]
    d_params["weight_ih"] = product(flat.T, x.reshape(-1, cell.input_size))
    d_params = {name: d.astype(params[name].dtype) for name, d in d_params.items()}
    return d_params, (d_start,), product(d_logits, weight).astype(x.dtype)


def logits_of(cell: Cell, arguments: Arguments) -> dict[str, Array]:
    """The logits (time, batch, width) of all steps, by slot."""
    params, x = arguments.params, arguments.x
    if cell.layer_norm:
        return cell.split(normalized.project(params, x))
    bias = params["bias"].astype(widened(x.dtype))
    return cell.split(product(x, params["weight_ih"].T) + bias[None, None])


def _extras(arguments: Arguments) -> tuple[Array | None, Array | None]:
    """Resets and the zoneout of the hidden state."""
    return arguments.resets, arguments.zoneout and arguments.zoneout[0]


def parallel(steps: Steps, reverse: bool) -> Array:
    """The states after all steps, in O(log T) array operations."""
    return lax.associative_scan(compose, steps, reverse=reverse).write


def sequential(steps: Steps, reverse: bool) -> Array:
    """The states after all steps, one after the other."""

    def body(carry: tuple[Array, Array], step: Steps) -> tuple[tuple[Array, Array], Array]:
        carry = advance_compensated(carry, step)
        return carry, carry[0]

    zeros = jnp.zeros_like(steps.write[0])
    return lax.scan(body, (zeros, zeros), steps, reverse=reverse)[1]


PARALLEL = Implementation("parallel", unsupported, functools.partial(forward, parallel),
                          functools.partial(backward, parallel))  # fmt: skip
