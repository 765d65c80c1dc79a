"""Fields of states and zoneout in the structs of the C++ library and of the CUDA kernels."""

import functools
from collections.abc import Iterable, Mapping
from typing import Any

_STATES = ("hidden", "cell")


def by_state(prefix: str, parts: Iterable[Any]) -> dict[str, Any]:
    """The fields of a state's parts, hidden first: ``{prefix}_hidden``, ``{prefix}_cell``."""
    return dict(zip(_names(prefix), parts, strict=False))


def of_states(prefix: str, fields: Mapping[str, Any]) -> list[Any]:
    """The parts of a state from their fields: the inverse of :func:`by_state`."""
    return [fields[name] for name in _names(prefix) if name in fields]


@functools.cache
def _names(prefix: str) -> list[str]:
    return [f"{prefix}_{name}" for name in _STATES]


def zoneout_fields(zoneout: tuple[Any, ...] | None) -> dict[str, Any]:
    """The fields of zoneout, (cell, hidden) or (hidden,): masks, or probabilities as floats.

    >>> zoneout_fields((0.5, 0.05))
    {'zoneout_hidden': 0.05, 'zoneout_cell': 0.5}
    """
    fields = {}
    for name, value in by_state("", reversed(zoneout or ())).items():
        if getattr(value, "ndim", 0):
            fields[f"zoneout_mask{name}"] = value
        else:
            fields[f"zoneout{name}"] = float(value)
    return fields
