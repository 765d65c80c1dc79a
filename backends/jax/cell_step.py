"""One step of a cell for flax, whose carries are (c, h) or h, and its initial weights."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from gatecore.backends.jax import normalized
from gatecore.backends.jax.arguments import as_array, widened
from gatecore.backends.jax.parameters import biases, weight
from gatecore.cells import GAINS, Cell

Array = jax.Array
_SIGMOIDS = (jax.nn.sigmoid, jax.lax.logistic)
_TANHS = (jnp.tanh, jax.lax.tanh)
DRAWN = ("weight_ih", "weight_hh", "bias")  # the parameters that are drawn from a key


def carry_step(cell: Cell, params: Mapping[str, Array], carry: Any, inputs: Any,
               promote: Callable[..., Any]) -> tuple[Any, Array]:  # fmt: skip
    """The new carry and the output (..., hidden), for inputs (..., input).

    ``promote`` brings a tuple of arrays to one type, which the output has. The new carry has the
    types of ``carry``, as scans require. ValueError for other shapes, or complex numbers.
    """
    inputs = as_array("inputs", inputs)
    if inputs.shape[-1:] != (cell.input_size,) or jnp.iscomplexobj(inputs):
        raise ValueError(f"inputs must be real of shape (..., {cell.input_size}), got "
                         f"{inputs.dtype} of shape {inputs.shape}")  # fmt: skip
    shape = (*inputs.shape[:-1], cell.hidden_size)
    parts = [as_array("carry", part) for part in cell.parts(carry, "carry")]
    if any(part.shape != shape or not jnp.issubdtype(part.dtype, jnp.floating) for part in parts):
        kinds = ", ".join(f"{part.dtype} of shape {part.shape}" for part in parts)
        raise ValueError(f"carry must be of a floating type and shape {shape}, got {kinds}")
    x, *values = promote((inputs, *params.values()))
    params, x = dict(zip(params, values, strict=True)), x.reshape(-1, x.shape[-1])
    state = tuple(part.reshape(-1, shape[-1]).astype(widened(x.dtype)) for part in parts[::-1])
    new = normalized.next_state(cell, params, x, state)
    output = new[0].reshape(shape).astype(x.dtype)
    pairs = zip(new[::-1], parts, strict=True)
    return cell.state([part.reshape(shape).astype(old.dtype) for part, old in pairs]), output


def initial(cell: Cell, name: str, key: Array | None, initializer: Any, dtype: Any) -> Array:
    """The initial value of a parameter.

    An ``initializer`` draws each slot of a matrix separately, and the bias as a whole; by default a
    matrix is U(−1/√d, 1/√d), and the bias the mechanism's. Gains are 1 and other vectors 0.
    """
    shape = cell.parameter_shapes()[name]
    if name not in DRAWN or key is None:
        return jnp.full(shape, name in GAINS, dtype)
    if name == "bias":
        return biases(cell, key, dtype) if initializer is None else initializer(key, shape, dtype)
    if initializer is None:
        return weight(cell, key, shape[1], dtype)
    keys = zip(jax.random.split(key, len(cell.slots)), cell.slots, strict=True)
    return jnp.concatenate([initializer(k, (shape[1], n), dtype).T for k, (_, n) in keys])


def check_functions(gate_fn: Any, activation_fn: Any) -> None:
    """Raise ValueError unless the functions are the sigmoid and tanh."""
    functions = (("gate_fn", gate_fn, _SIGMOIDS), ("activation_fn", activation_fn, _TANHS))
    for name, function, supported in functions:
        if function not in supported:
            raise ValueError(f"{name} must stay {supported[0].__name__}, got {function!r}: the "
                             "gates are the mechanism's, and carry their complement; choose "
                             "another mechanism instead")  # fmt: skip
