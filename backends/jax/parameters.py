"""Initial parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gatecore import _checks
from gatecore.cells import CELLS, GAINS, Cell
from gatecore.mechanisms import Mechanism

Array = jax.Array


def init(
    key: Array | int, input_size: int, hidden_size: int, mechanism: str | Mechanism = "UR", *,
    core: str = "lstm", layer_norm: bool = False, dtype: Any = jnp.float32,
) -> dict[str, Array]:  # fmt: skip
    """Initial parameters: weights U(−1/√d, 1/√d), the mechanism's gate biases, gains 1, all else 0.

    A dict of ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden) but for a MinGRU, ``bias``
    (rows,), for a GRU ``bias_n`` (hidden,), and with ``layer_norm`` those that
    :class:`gatecore.cells.Cell` describes. Can be traced and mapped over keys; an int as the key is
    a seed. NumPy draws the biases, by :mod:`gatecore.init`. ValueError or TypeError for an unknown
    core or mechanism, or a size that is not positive or that the mechanism refuses; TypeError for a
    key of another kind.

    >>> import jax
    >>> {k: v.shape for k, v in init(jax.random.key(0), 3, 8, "UR").items()}
    {'weight_ih': (32, 3), 'weight_hh': (32, 8), 'bias': (32,)}
    """
    kind = CELLS[_checks.choice("core", core, CELLS)]
    cell = kind(input_size, hidden_size, mechanism, layer_norm)
    keys = jax.random.split(_key(key), 3)
    params = {name: jnp.zeros(shape, dtype) for name, shape in cell.parameter_shapes().items()}
    for name, weight_key in zip(("weight_ih", "weight_hh"), keys, strict=False):
        if name in params:
            params[name] = weight(cell, weight_key, params[name].shape[1], dtype)
    params["bias"] = biases(cell, keys[2], dtype)
    return params | {name: jnp.ones_like(params[name]) for name in GAINS if name in params}


def weight(cell: Cell, key: Array, width: int, dtype: Any) -> Array:
    """A matrix (rows, width) drawn from U(−1/√d, 1/√d) with d the hidden size."""
    bound = cell.hidden_size**-0.5
    return jax.random.uniform(key, (cell.rows, width), dtype, -bound, bound)


def biases(cell: Cell, key: Array, dtype: Any) -> Array:
    """The mechanism's initial biases (rows,), drawn in NumPy from a seed that the key gives."""

    def draw(seed: Any) -> np.ndarray:
        rng = np.random.default_rng(np.asarray(seed).tolist())
        slots = cell.mechanism.biases(cell.core, cell.hidden_size, rng)
        return np.concatenate(list(slots.values())).astype(np.float32)

    seed = jax.random.bits(key, (4,), jnp.uint32)
    shape = jax.ShapeDtypeStruct((cell.rows,), jnp.float32)
    return jax.pure_callback(draw, shape, seed, vmap_method="sequential").astype(dtype)


def _key(key: Any) -> Array:
    seed = _checks.plain(key)
    if isinstance(seed, int) and not isinstance(seed, bool):
        return jax.random.key(seed)
    if isinstance(key, jax.Array):
        if key.ndim == 0 and jnp.issubdtype(key.dtype, jnp.integer):
            return jax.random.key(key)
        raw = key.ndim == 1 and key.dtype == jnp.uint32  # of jax.random.PRNGKey
        if raw or (key.ndim == 0 and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            return key
    kind = f"{key.dtype} of shape {key.shape}" if hasattr(key, "dtype") else type(key).__name__
    raise TypeError(f"key must be one of jax.random.key(seed), or an int as the seed, got {kind}")
