"""A layer-normalized layer over a whole sequence, and its derivative by manual BPTT.

The products of the input are normalized for all steps at once, those of the state step by step.
The backward scan reads the states, logits and products that the forward scan saved; JAX
differentiates a normalization, and the gradients of the weights are one product over all time.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from gatecore.backends.jax import scan
from gatecore.backends.jax.arguments import Arguments, States
from gatecore.backends.jax.derivative import step_backward
from gatecore.backends.jax.implementation import Implementation
from gatecore.cells import Cell
from gatecore.normalization import layer_norm

Array = jax.Array
Params = Mapping[str, Array]


def forward(cell: Cell, num_outputs: int, saves: bool,
            arguments: Arguments) -> tuple[States, States, Any]:  # fmt: skip
    """The forward pass, also of layers without normalization: see :func:`scan.forward`."""
    if not cell.layer_norm:
        return scan.forward(cell, num_outputs, saves, arguments)
    params, initial, x, *rest = arguments

    def body(state: States, now: Any) -> tuple[States, Any]:
        projected, resets, zoneout = now
        state = scan.reset(state, resets)
        new, logits, product = step(cell, params, projected, state, zoneout)
        return new, (new, (state, logits, product) if saves else None)

    final, (states, saved) = lax.scan(body, initial, (project(params, x), *rest))
    return states[:num_outputs], final, saved


def backward(cell: Cell, num_outputs: int, wrt_x: bool, arguments: Arguments, saved: Any,
             cotangents: Any) -> tuple[dict[str, Array], States, Array]:  # fmt: skip
    """The backward pass, also of layers without normalization: see :func:`scan.backward`."""
    if not cell.layer_norm:
        return scan.backward(cell, num_outputs, wrt_x, arguments, saved, cotangents)
    params, _, x, *rest = arguments
    weights = params["weight_hh"]
    vectors = {name: value for name, value in params.items() if value.ndim == 1}

    def body(carry: Any, now: Any) -> tuple[Any, Any]:
        d_state, d_vectors = carry
        (state, packed, product), resets, zoneout, d_outputs = now
        d_new = (*map(jnp.add, d_state, d_outputs), *d_state[len(d_outputs) :])
        logits = scan.split(scan.columns(cell), packed)
        d_logits, d_old, d_own = step_backward(cell, logits, state, zoneout, d_new, vectors)
        join = functools.partial(_join, cell)
        _, pullback = jax.vjp(join, vectors, jnp.zeros_like(product), product)
        d_joined, d_projected, d_product = pullback(d_logits)
        d_vectors = jax.tree.map(lambda a, b, c: a + b + c, d_vectors, d_own, d_joined)
        d_old = (d_old[0] + scan.product(d_product, weights), *d_old[1:])
        return (scan.reset(d_old, resets), d_vectors), (d_projected, d_product)

    d_outputs, d_final = cotangents
    zeros = jax.tree.map(jnp.zeros_like, vectors)
    steps = (saved, *rest, d_outputs)
    (d_initial, d_vectors), (d_projected, d_products) = lax.scan(
        body, (d_final, zeros), steps, reverse=True
    )
    _, pullback = jax.vjp(project, params, x)
    d_params, d_x = pullback(d_projected)
    hidden, flat = saved[0][0].reshape(-1, cell.hidden_size), d_products.reshape(-1, cell.rows)
    d_weights = scan.product(hidden.T, flat.astype(weights.dtype)).T
    d_params["weight_hh"] = d_weights.astype(weights.dtype)
    d_params |= {name: d_params[name] + d for name, d in d_vectors.items()}
    return d_params, d_initial, d_x


REFERENCE = Implementation("reference", lambda call: None, forward, backward)


def project(params: Params, x: Array) -> Array:
    """The input's part of the logits, (..., input) to (..., rows)."""
    product = scan.product(x, params["weight_ih"].T)
    return layer_norm(product, params["norm_ih"], params["bias"])


def step(cell: Cell, params: Params, projected: Array, state: States,
         zoneout: Any = None) -> tuple[States, Array, Array]:  # fmt: skip
    """The next state, the packed logits (batch, columns), and the state's product (batch, rows)."""
    product = scan.product(state[0], params["weight_hh"].T)
    logits = _join(cell, params, projected, product)
    new = cell.complete(logits, cell.mechanism.gates(logits), state, zoneout, params)
    packed = jnp.concatenate([logits[name] for name, _ in scan.columns(cell)], axis=-1)
    return new, packed, product


def _join(cell: Cell, params: Params, projected: Array, product: Array) -> dict[str, Array]:
    """The logits by slot."""
    return cell.join(params, projected, layer_norm(product, params["norm_hh"]))
