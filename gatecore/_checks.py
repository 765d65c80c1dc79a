"""Checks of arguments: errors name the argument, its value and what was expected."""

import difflib
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

LARGEST = 2**31 - 1  # of sizes and counts: what C and CUDA take as an int
LARGEST_SEED = 2**63 - 1

# For a field that not every value of its class uses: where it acts, and why not elsewhere.
Acts = Mapping[str, tuple[Callable[[Any], Any], str]]


def unused(value: Any) -> dict[str, str]:
    """The fields that act on nothing, with the reason, by the tables ``_acts`` of the classes."""
    tables = [vars(kind).get("_acts", {}) for kind in type(value).__mro__]
    return {name: reason for table in tables for name, (acts, reason) in table.items()
            if not acts(value)}  # fmt: skip


def show(value: Any) -> str:
    """``repr(value)`` in one line of at most 100 characters."""
    try:
        text = repr(value).replace("\n", " ")
    except (ValueError, RecursionError):  # Python prints no integer of more than 4300 digits
        return f"{type(value).__name__} too long to print"
    return text if len(text) <= 100 else f"{text[:97]}..."


def choice(name: str, value: Any, options: Iterable[str]) -> str:
    """``value`` if it is one of ``options``; the error for another one offers the nearest."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    folded = {option.casefold(): option for option in options}
    near = difflib.get_close_matches(show(value).strip("'\"").casefold(), folded, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(repr(folded[n]) for n in near)}? " if near else ""
    raise ValueError(f"{name}={show(value)} is unknown: {hint}known are {', '.join(options)}")


def integer(name: str, value: Any, at_least: int = 1, at_most: int = LARGEST) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {show(value)}")
    if not at_least <= int(value) <= at_most:
        bound = f"at least {at_least}" if int(value) < at_least else f"at most {at_most}"
        raise ValueError(f"{name} must be {bound}, got {show(int(value))}")
    return int(value)


def number(name: str, value: Any, limit: float = 1e300) -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {show(value)}")
    size: Any = abs(value)
    if not size <= limit:  # which NaN is not either
        bound = "be finite" if limit == 1e300 else f"lie in [-{limit:g}, {limit:g}]"
        raise ValueError(f"{name} must {bound}, got {show(value)}")
    return float(value)


def probability(name: str, value: Any, below_one: bool = False) -> float:
    number(name, value)
    if not 0 <= value <= 1 or (below_one and value == 1):
        raise ValueError(f"{name} must lie in [0, 1{')' if below_one else ']'}, got {value}")
    return float(value)


def flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {show(value)}")
    return bool(value)


def entries(name: str, value: Any, length: int | None = None) -> tuple[Any, ...]:
    """A tuple or list as a tuple, of ``length`` entries where that is given."""
    if not isinstance(value, tuple | list):
        raise TypeError(f"{name} must be a tuple, got {type(value).__name__} {show(value)}")
    if length is not None and len(value) != length:
        raise ValueError(f"{name} must have {length} entries, got {len(value)}")
    return tuple(value)


def generator(rng: Any) -> np.random.Generator:
    """A Generator as it is; an integer seed as a fresh one."""
    if isinstance(rng, np.random.Generator):
        return rng
    if isinstance(rng, int | np.integer) and not isinstance(rng, bool) and rng >= 0:
        return np.random.default_rng(int(rng))
    raise TypeError("rng must be a numpy.random.Generator or a non-negative int seed, got "
                    f"{show(rng)}")  # fmt: skip
