"""Checks of the arguments of a layer: errors name the argument and what was expected."""

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gatecore import _checks, cells, mechanisms
from gatecore.mechanisms import Mechanism

Array = Any


def check_array(name: str, value: Any, shape: tuple[int, ...], dtype: Any, axes: str) -> Array:
    """``value`` if it is an array of this dtype and shape; errors name the shape's ``axes``."""
    _check_is_array(name, value)
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(f"{name} must be {dtype} of shape {shape} {axes}, got {value.dtype} of "
                         f"shape {value.shape}")  # fmt: skip
    return value


def layers_of(params: Any) -> Sequence[Mapping[str, Array]]:
    """The parameters of each of the stacked layers."""
    if not isinstance(params, list | tuple) or not all(isinstance(p, Mapping) for p in params):
        raise TypeError("params must be a mapping of arrays, or a list of mappings for stacked "
                        f"layers, got {type(params).__name__}")  # fmt: skip
    if not params:
        raise ValueError("params must have at least one layer, got an empty list")
    return params


def per_layer(name: str, value: Any, count: int, kinds: Any = list) -> Sequence[Any]:
    """One value for each of stacked layers, from a list of them or None."""
    if value is None:
        return [None] * count
    if not isinstance(value, kinds) or len(value) != count:
        raise ValueError(f"{name} of stacked layers must be a list of {count}, one for each layer, "
                         f"got {type(value).__name__}")  # fmt: skip
    return value


def cell_of(core: str, params: Mapping[str, Array], x: Array, mechanism: Any,
            **fields: Any) -> cells.Cell:  # fmt: skip
    """The cell whose parameters have the names and shapes of ``params``, for inputs x.

    It has layer normalization if they have one of its gains; ``fields`` are further ones of the
    cell. ValueError or TypeError unless ``params`` are arrays of the shapes that the cell requires.
    """
    for name, value in {"x": x, **{f"params[{k!r}]": v for k, v in params.items()}}.items():
        _check_is_array(name, value)
    if x.ndim != 3:
        raise ValueError(f"x must have shape (time, batch, input), got {x.shape}")
    fields["layer_norm"] = any(name in params for name in cells.GAINS)
    cell = cells.CELLS[core](x.shape[2], hidden_size(core, params, mechanism), mechanism, **fields)
    check_parameters(cell, params)
    return cell


def hidden_size(core: str, params: Mapping[str, Array], mechanism: str | Mechanism) -> int:
    """The hidden size of the cell with these parameters; ValueError if there is none."""
    recurrent = cells.CELLS[core].recurrent
    name, axes = ("weight_hh", "(rows, hidden)") if recurrent else ("weight_ih", "(rows, input)")
    _check_present(params, [name])
    shape = tuple(params[name].shape)
    if len(shape) != 2:
        raise ValueError(f"params[{name!r}] must have shape {axes}, got {shape}")
    return shape[1] if recurrent else mechanisms.mechanism(mechanism).units(core, shape[0])


def check_parameters(cell: cells.Cell, params: Mapping[str, Array]) -> None:
    """Raise ValueError unless ``params`` have the cell's names and shapes."""
    core, shapes = cell.core, cell.parameter_shapes()
    _check_present(params, shapes)
    for name, value in params.items():
        if name not in shapes:
            raise ValueError(f"params has an unknown entry {name!r}: a {core} has "
                             f"{', '.join(shapes)}")  # fmt: skip
        if value.shape != shapes[name]:
            raise ValueError(f"params[{name!r}] must have shape {shapes[name]} for a {core} of "
                             f"{cell.hidden_size} units with mechanism {cell.mechanism.name!r} and "
                             f"inputs of {cell.input_size}, got {tuple(value.shape)}")  # fmt: skip


def check_numbers(xp: Any, params: Mapping[str, Array], x: Array) -> None:
    """Raise unless x is float32 or float64, and the parameters of its dtype and finite."""
    if x.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    for name, value in params.items():
        if value.dtype != x.dtype:
            raise TypeError(f"params[{name!r}] is {value.dtype} but x is {x.dtype}: convert one of "
                            "them")  # fmt: skip
    finite = {name: xp.isfinite(value).all() for name, value in params.items()}
    if not functools.reduce(operator.and_, finite.values()):  # on a GPU, the one wait for it
        name = next(name for name, good in finite.items() if not good)
        raise ValueError(f"params[{name!r}] has entries that are not finite")


def zoneout_parts(cell: cells.Cell, zoneout: Any) -> tuple[Any, ...] | None:
    """Zoneout as users pass it, as a tuple in the order cell, hidden; None without zoneout."""
    if zoneout is None:
        return None
    parts = (zoneout,) if len(cell.state_names) == 1 else zoneout
    if not isinstance(parts, tuple) or len(parts) != len(cell.state_names):
        raise ValueError("zoneout of an LSTM must be a pair, of the cell and the hidden state, got "
                         f"{type(zoneout).__name__}")  # fmt: skip
    return parts


def check_zoneout(cell: cells.Cell, zoneout: tuple[Any, ...] | None, steps: Sequence[int],
                  dtype: Any) -> tuple[Any, ...] | None:  # fmt: skip
    """The result of :func:`zoneout_parts`, checked; None if all are 0."""
    parts = () if zoneout is None else tuple(
        part if getattr(part, "ndim", 0) else _checks.probability("zoneout", part)
        for part in zoneout
    )  # fmt: skip
    if len(parts) not in (0, len(cell.state_names)):
        raise ValueError(f"zoneout must have {len(cell.state_names)} parts, got {len(parts)}")
    masks = [part for part in parts if not isinstance(part, float)]
    shape = (*steps, cell.hidden_size)
    for mask in masks:
        check_array("zoneout mask", mask, shape, dtype, "(time, batch, hidden)")
        if not ((mask >= 0) & (mask <= 1)).all():
            raise ValueError("zoneout masks must lie in [0, 1], got an entry outside")
    return parts if masks or any(parts) else None


def _check_present(params: Mapping[str, Array], names: Iterable[str]) -> None:
    for name in names:
        if name not in params:
            raise ValueError(f"params lacks {name!r}: it has {', '.join(map(repr, params))}")


def gate_slots(mechanism: Mechanism, size: int) -> dict[str, int]:
    """Widths of the slots of ``size`` gates outside of a cell: the minimal cell's gates."""
    if not mechanism.tied:
        raise ValueError(f"tied=False of mechanism {mechanism.name!r} is for cells: a GateUnit has "
                         "no input gate, so leave it out")  # fmt: skip
    return {name: width for name, width in mechanism.slots("minimal", size) if name != "candidate"}


def _check_is_array(name: str, value: Any) -> None:
    if not hasattr(_checks.unmasked(name, value), "dtype"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")


def arguments(core: str, arrays: Mapping[str, Array]) -> tuple[dict[str, Array], Array, Any]:
    """Parameters, x and the state of a layer, from the arrays of a backend's ``layer_vjp``."""
    names = cells.CELLS[core].state_names
    params = {name: array for name, array in arrays.items() if name not in ("x", *names)}
    state = tuple(arrays[name] for name in names)
    return params, arrays["x"], state if len(state) > 1 else state[0]
