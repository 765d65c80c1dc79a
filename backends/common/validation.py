"""What a caller may pass, checked before any work: errors name the argument and what it must be."""

from collections.abc import Mapping, Sequence
from typing import Any

from gatecore import _checks, cells

Array = Any


def array(name: str, value: Any, shape: tuple[int, ...], dtype: Any, axes: str) -> Array:
    """``value`` if it is an array of this dtype and shape, whose ``axes`` an error names."""
    if not hasattr(value, "dtype"):
        raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if value.shape != shape or value.dtype != dtype:
        raise ValueError(
            f"{name} must be {dtype} of shape {shape} {axes}, got {value.dtype} of shape "
            f"{value.shape}"
        )
    return value


def layers_of(params: Any) -> Sequence[Mapping[str, Array]]:
    """The mappings of stacked layers."""
    if not isinstance(params, list | tuple) or not all(isinstance(p, Mapping) for p in params):
        raise TypeError(
            "params must be a mapping of arrays, or a list of mappings for stacked layers, got "
            f"{type(params).__name__}"
        )
    if not params:
        raise ValueError("params must hold at least one layer")
    return params


def per_layer(name: str, value: Any, count: int, kinds: Any = list) -> Sequence[Any]:
    """One value for each of stacked layers; None for all of them is as good."""
    if value is None:
        return [None] * count
    if not isinstance(value, kinds) or len(value) != count:
        raise ValueError(f"{name} of stacked layers must be a list of {count}, one for each layer")
    return value


def cell_of(core: str, params: Mapping[str, Array], x: Array, mechanism: Any) -> cells.Cell:
    """The cell that these parameters and inputs are of."""
    for name in ("weight_ih", "weight_hh", "bias", *(["bias_n"] if core == "gru" else [])):
        if name not in params:
            raise ValueError(f"params lacks {name!r}: it has {', '.join(map(repr, params))}")
    for name, value in {"x": x, **{f"params[{k!r}]": v for k, v in params.items()}}.items():
        if not hasattr(value, "dtype"):
            raise TypeError(f"{name} must be an array, got {type(value).__name__}")
    if params["weight_hh"].ndim != 2:
        raise ValueError(f"params['weight_hh'] must be a matrix, got {params['weight_hh'].shape}")
    if x.ndim != 3:
        raise ValueError(f"x must have shape (time, batch, input), got {x.shape}")
    return cells.CELLS[core](x.shape[2], params["weight_hh"].shape[-1], mechanism)


def check(xp: Any, cell: cells.Cell, params: Mapping[str, Array], x: Array) -> None:
    """Raise unless the parameters have the cell's names and shapes, x's dtype, and are finite."""
    hidden = cell.hidden_size
    shapes = {
        "weight_ih": (cell.rows, cell.input_size),
        "weight_hh": (cell.rows, hidden),
        "bias": (cell.rows,),
        "bias_n": (hidden,),
    }
    if x.dtype not in (xp.float32, xp.float64):
        raise TypeError(f"x must be float32 or float64, got {x.dtype}")
    for name, value in params.items():
        if name not in shapes or (name == "bias_n" and cell.core != "gru"):
            raise ValueError(f"params has an unknown entry {name!r}")
        if value.shape != shapes[name]:
            raise ValueError(
                f"params[{name!r}] must have shape {shapes[name]} for a {cell.core} of {hidden} "
                f"units with mechanism {cell.mechanism.name!r} and inputs of {cell.input_size}, "
                f"got {value.shape}"
            )
        if value.dtype != x.dtype:
            raise TypeError(f"params[{name!r}] is {value.dtype} but x is {x.dtype}")
        if not xp.isfinite(value).all():
            raise ValueError(f"params[{name!r}] has entries that are not finite")


def keep_factors(resets: Array | None, steps: tuple[int, int], dtype: Any) -> Array | None:
    """The factor (time, batch, 1) of the state before each step: 0 where it is reset."""
    if resets is None:
        return None
    resets = array("resets", resets, steps, "bool", "(time, batch)")
    return (~resets[..., None]).astype(dtype)


def zoneout_amounts(cell: cells.Cell, zoneout: Any, steps: tuple[int, int], dtype: Any) -> Any:
    """The amounts, checked; None where nothing is kept."""
    if zoneout is None:
        return None
    if cell.core == "lstm" and (not isinstance(zoneout, tuple) or len(zoneout) != 2):
        raise ValueError("zoneout of an LSTM must be a pair: of the cell and the hidden state")
    amounts = zoneout if cell.core == "lstm" else (zoneout,)
    shape = (*steps, cell.hidden_size)
    for amount in amounts:
        if getattr(amount, "ndim", 0):
            draws = array("zoneout draws", amount, shape, dtype, "(time, batch, hidden)")
            if not ((draws >= 0) & (draws <= 1)).all():
                raise ValueError("zoneout draws must lie in [0, 1]")
        else:
            _checks.probability("zoneout", amount)
    unused = all(not getattr(amount, "ndim", 0) and amount == 0 for amount in amounts)
    return None if unused else zoneout


def state_parts(
    cell: cells.Cell, state: Any, shape: tuple[int, int], dtype: Any, name: str = "state"
) -> tuple[Array | None, ...]:
    """The state's parts, hidden first; a part may be None, for zeros."""
    if state is None:
        return (None,) * (2 if cell.core == "lstm" else 1)
    if cell.core != "lstm":
        parts = (state,)
    elif isinstance(state, tuple | list) and len(state) == 2:
        parts = tuple(state)
    else:
        raise ValueError(f"{name} of an LSTM must be a pair (h, c)")
    for part in parts:
        if part is not None:
            array(name, part, shape, dtype, "(batch, hidden)")
    return parts
