"""The arrays that a layer reads, and their checks."""

import contextlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gatecore import _checks
from gatecore.backends.common.validation import cell_of, check_array, zoneout_parts
from gatecore.cells import Cell
from gatecore.mechanisms import Mechanism

Array = jax.Array
States = tuple[Array, ...]  # the parts of a state, hidden first


class Arguments(NamedTuple):
    """The arrays that one layer reads, or the cotangents of the first three."""

    params: Mapping[str, Array]
    initial: States  # the initial state
    x: Array  # (time, batch, input)
    resets: Array | None = None  # bool (time, batch, 1)
    zoneout: Any = None  # a tuple of probabilities (time, 1, 1) and masks (time, batch, hidden)


def widened(dtype: Any) -> Any:
    """The type of gates and states beside weights of type ``dtype``: float32 at least."""
    return jnp.dtype(jnp.float32) if jnp.dtype(dtype).itemsize < 4 else jnp.dtype(dtype)


def checked(
    core: str, params: Mapping[str, Array], x: Array, state: Any = None,
    mechanism: str | Mechanism = "UR", resets: Array | None = None, zoneout: Any = None,
    **fields: Any,
) -> tuple[Cell, Arguments]:  # fmt: skip
    """The cell of one layer, and its arguments as implementations take them."""
    x = as_array("x", x)
    params = {name: as_array(f"params[{name!r}]", value) for name, value in params.items()}
    cell = cell_of(core, params, x, mechanism, **fields)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x must have a floating type, got {x.dtype}: convert it with x.astype")
    wide, steps = widened(x.dtype), x.shape[:2]
    for name, value in params.items():
        if value.dtype != x.dtype and (name.startswith("weight") or value.dtype != wide):
            raise TypeError(f"params[{name!r}] is {value.dtype} but x is {x.dtype}: convert one of "
                            "them")  # fmt: skip
        finite = _finite(value)
        if not (isinstance(finite, jax.core.Tracer) or finite):
            raise ValueError(f"params[{name!r}] has entries that are not finite")
    params = {k: v if k.startswith("weight") else v.astype(wide) for k, v in params.items()}
    shape, initial = (x.shape[1], cell.hidden_size), []
    for part in cell.parts(state):  # zeros where it, or the state, is None
        array = jnp.zeros(shape, wide) if part is None else as_array("state", part)
        array = array.astype(widened(array.dtype))
        initial.append(check_array("state", array, shape, wide, "(batch, hidden)"))
    masks = zoneout_parts(cell, zoneout)
    masks = masks and tuple(_mask(part, (*steps, cell.hidden_size), wide) for part in masks)
    return cell, Arguments(params, tuple(initial), x, resets_of(resets, steps), masks)


def as_array(name: str, value: Any) -> Array:
    """An array of any framework as JAX's; TypeError, which calls it ``name``, if it is none."""
    if hasattr(_checks.unmasked(name, value), "dtype"):
        with contextlib.suppress(TypeError, ValueError):
            return jnp.asarray(value)
    kind = getattr(value, "dtype", type(value).__name__)
    raise TypeError(f"{name} must be an array of numbers, got {kind}: use jax.numpy.asarray")


@jax.jit
def _finite(value: Array) -> Array:
    return jnp.isfinite(value).all()


def resets_of(resets: Any, steps: tuple[int, ...]) -> Array | None:
    """Resets as bool (time, batch, 1), checked."""
    if resets is None:
        return None
    resets = check_array("resets", as_array("resets", resets), steps, "bool", "(time, batch)")
    return resets[..., None]


def _mask(zoneout: Any, shape: tuple[int, ...], dtype: Any) -> Array:
    """Zoneout of a part of the state, as (time, batch, hidden) or (time, 1, 1)."""
    if not hasattr(zoneout, "dtype") or isinstance(zoneout, np.generic):
        zoneout = np.asarray(_checks.probability("zoneout", zoneout))
    values = as_array("zoneout", zoneout)
    if jnp.iscomplexobj(values):
        raise TypeError(f"zoneout must be real, got {values.dtype}")
    mask = jax.lax.stop_gradient(values.astype(dtype))
    if mask.ndim:
        check_array("zoneout mask", mask, shape, dtype, "(time, batch, hidden)")
    if not (isinstance(mask, jax.core.Tracer) or ((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("zoneout must lie in [0, 1], got an entry outside")
    return mask if mask.ndim else jnp.broadcast_to(mask, (shape[0], 1, 1))
