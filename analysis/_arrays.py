"""Range checks and bisection on arrays."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from gatecore import Gate, _checks

Floats = np.ndarray


def in_unit_interval(name: str, values: ArrayLike, advice: str) -> Floats:
    """The values as float64; an error with the advice if one lies outside [0, 1]."""
    values = np.asarray(_checks.unmasked(name, values), dtype=np.float64)
    outside = values[~((values >= 0) & (values <= 1))]
    if outside.size:
        raise ValueError(f"{name} must lie in [0, 1], got {outside[0]}: {advice}")
    return values


def as_gate(g: Gate | ArrayLike) -> Gate:
    """A gate, or an array of gate values, as a float64 Gate; an error outside [0, 1]."""
    sides = g if isinstance(g, Gate) else (g, 1 - np.asanyarray(g, dtype=np.float64))
    advice = "apply gatecore.sigmoid to logits"
    return Gate(*(in_unit_interval("g", side, advice) for side in sides))


def bisect(is_below: Callable[[Floats], Floats], low: Floats, high: Floats,
           steps: int) -> tuple[Floats, Floats]:  # fmt: skip
    """Bracket of the solution between ``low`` and ``high``, halved ``steps`` times."""
    for _ in range(steps):
        middle = (low + high) / 2
        below = is_below(middle)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return low, high
