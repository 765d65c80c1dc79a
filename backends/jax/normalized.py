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
from gatecore.backends.jax.arguments import Arguments, States, widened
from gatecore.backends.jax.derivative import step_backward
from gatecore.cells import Cell
from gatecore.normalization import layer_norm

Array = jax.Array
Params = Mapping[str, Array]


def forward(cell: Cell, num_outputs: int, saves: bool,
            arguments: Arguments) -> tuple[States, States, Any]:  # fmt: skip
    """The forward pass; ``backward`` reads the state before each step, logits and products."""
    params, initial, x, *rest = arguments

    def body(state: States, now: Any) -> tuple[States, Any]:
        projected, resets, zoneout = now
        state = scan.reset(state, resets)
        new, logits, products = step(cell, params, projected, state, zoneout)
        return new, (new, (state, logits, products) if saves else None)

    final, (states, saved) = lax.scan(body, initial, (project(params, x), *rest))
    return states[:num_outputs], final, saved


def backward(cell: Cell, num_outputs: int, wrt_x: bool, arguments: Arguments, saved: Any,
             cotangents: Any) -> tuple[dict[str, Array], States, Array]:  # fmt: skip
    """The backward pass: cotangents of the parameters, of the initial state, and of x."""
    params, _, x, *rest = arguments
    vectors = {name: value for name, value in params.items() if value.ndim == 1}

    def body(carry: Any, now: Any) -> tuple[Any, Any]:
        d_state, d_vectors = carry
        (state, packed, products), resets, zoneout, d_outputs = now
        d_new = (*map(jnp.add, d_state, d_outputs), *d_state[len(d_outputs) :])
        logits = scan.split(scan.columns(cell), packed)
        d_logits, d_old, d_own = step_backward(cell, logits, state, zoneout, d_new, vectors)
        projected = jnp.zeros((len(packed), cell.rows), packed.dtype)
        _, pullback = jax.vjp(functools.partial(_join, cell), vectors, projected, products)
        d_joined, d_projected, d_products = pullback(d_logits)
        d_vectors = jax.tree.map(lambda a, b, c: a + b + c, d_vectors, d_own, d_joined)
        for d_product in d_products:
            d_old = (d_old[0] + scan.product(d_product, params["weight_hh"]), *d_old[1:])
        return (scan.reset(d_old, resets), d_vectors), (d_projected, d_products)

    d_outputs, d_final = cotangents
    zeros = jax.tree.map(jnp.zeros_like, vectors)
    steps = (saved, *rest, d_outputs)
    (d_initial, d_vectors), (d_projected, d_products) = lax.scan(
        body, (d_final, zeros), steps, reverse=True
    )
    d_product, d_projection = projection_backward(params, x, d_projected)
    d_params = d_vectors | {name: d_vectors[name] + d for name, d in d_projection.items()}
    products = [("weight_ih", x, d_product)]
    products += [("weight_hh", saved[0][0], d) for d in d_products]
    for name, inputs, d in products:
        flat = d.reshape(-1, cell.rows).astype(x.dtype)
        d_weights = scan.product(inputs.reshape(-1, inputs.shape[-1]).T, flat)
        d_params[name] = d_weights.T.astype(x.dtype)
    return d_params, d_initial, scan.product(d_product, params["weight_ih"]).astype(x.dtype)


def next_state(cell: Cell, params: Params, x: Array, state: States) -> States:
    """The state after one step from x (batch, input), also of cells without normalization."""
    if not cell.layer_norm:
        return scan.step(cell, *scan.pack(cell, params), state, x)[0]
    wide = widened(x.dtype)
    params = {k: v.astype(wide) if v.ndim == 1 else v for k, v in params.items()}
    return step(cell, params, project(params, x), state)[0]


def project(params: Params, x: Array) -> Array:
    """The input's part of the logits, (..., input) to (..., rows)."""
    product = scan.product(x, params["weight_ih"].T)
    return layer_norm(product, params["norm_ih"], params["bias"])


def projection_backward(params: Params, x: Array,
                        d_logits: Array) -> tuple[Array, dict[str, Array]]:  # fmt: skip
    """Cotangents of the product W x, and of the gain and the bias, by name, of :func:`project`."""
    product = scan.product(x, params["weight_ih"].T)
    _, pullback = jax.vjp(layer_norm, product, params["norm_ih"], params["bias"])
    d_product, d_gain, d_bias = pullback(d_logits)
    return d_product, {"norm_ih": d_gain, "bias": d_bias}


def step(cell: Cell, params: Params, projected: Array, state: States,
         zoneout: Any = None) -> tuple[States, Array, tuple[Array, ...]]:  # fmt: skip
    """The next state, the packed logits (batch, columns), and the state's product (batch, rows).

    The latter is a tuple, empty where the logits do not depend on the state.
    """
    products = (scan.product(state[0], params["weight_hh"].T),) if cell.recurrent else ()
    logits = _join(cell, params, projected, products)
    new = cell.complete(logits, cell.mechanism.gates(logits), state, zoneout, params)
    packed = jnp.concatenate([logits[name] for name, _ in scan.columns(cell)], axis=-1)
    return new, packed, products


def _join(cell: Cell, params: Params, projected: Array,
          products: tuple[Array, ...]) -> dict[str, Array]:  # fmt: skip
    """The logits by slot."""
    recurrent = layer_norm(products[0], params["norm_hh"]) if products else None
    return cell.join(params, projected, recurrent)
