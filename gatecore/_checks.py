"""Checks of arguments: errors name the argument, its value and what was expected."""

import difflib
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


def plain(value: Any) -> Any:
    """NumPy's numbers, texts and arrays as Python's; others, with units or a mask, as they are."""
    if isinstance(value, np.generic) or type(value) is np.ndarray:
        value = np.asarray(value)
        if value.dtype.kind in "biufcUO":
            return (value.astype(float) if value.dtype.kind == "f" else value).tolist()
    return value


def unmasked(name: str, value: Any) -> Any:
    """``value``; TypeError for NumPy's masked arrays, whose mask would be lost."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array without a mask, got a masked one: use .filled()")
    return value


def integer(name: str, value: Any, at_least: int = 1, at_most: int = LARGEST) -> int:
    size = plain(value)
    if isinstance(size, bool) or not isinstance(size, int):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {show(value)}")
    if not at_least <= size <= at_most:
        bound = f"at least {at_least}" if size < at_least else f"at most {at_most}"
        raise ValueError(f"{name} must be {bound}, got {show(size)}")
    return int(size)


def number(name: str, value: Any, limit: float = 1e300) -> float:
    real = plain(value)
    if isinstance(real, bool) or not isinstance(real, int | float):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {show(value)}")
    if not abs(real) <= limit:  # which NaN is not either
        bound = "be finite" if limit == 1e300 else f"lie in [-{limit:g}, {limit:g}]"
        raise ValueError(f"{name} must {bound}, got {show(value)}")
    return float(real)


def probability(name: str, value: Any, below_one: bool = False) -> float:
    share = number(name, value)
    if not 0 <= share <= 1 or (below_one and share == 1):
        raise ValueError(f"{name} must lie in [0, 1{')' if below_one else ']'}, got {value}")
    return share


def flag(name: str, value: Any) -> bool:
    if not isinstance(plain(value), bool):
        raise TypeError(f"{name} must be True or False, got {show(value)}")
    return bool(value)


def entries(name: str, value: Any, length: int | None = None) -> tuple[Any, ...]:
    """A tuple, list or array as a tuple, of ``length`` entries where that is given."""
    listed = plain(value)
    if not isinstance(listed, tuple | list):
        raise TypeError(f"{name} must be a tuple, got {type(value).__name__} {show(value)}")
    if length is not None and len(listed) != length:
        raise ValueError(f"{name} must have {length} entries, got {len(listed)}")
    return tuple(listed)


def integers(name: str, value: Any) -> tuple[int, ...]:
    return tuple(integer(name, one) for one in entries(name, value))


def check_fields(target: Any, check: Callable[..., Any], *names: str, **bounds: Any) -> None:
    """Replace fields of a frozen dataclass by what ``check`` returns; None stays a default."""
    for name in names:
        value = getattr(target, name)
        if value is not None or getattr(type(target), name, 0) is not None:
            object.__setattr__(target, name, check(name, value, **bounds))


def generator(rng: Any) -> np.random.Generator:
    """A Generator as it is; an integer seed as a fresh one."""
    if isinstance(rng, np.random.Generator):
        return rng
    seed = plain(rng)
    if isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0:
        return np.random.default_rng(seed)
    raise TypeError("rng must be a numpy.random.Generator or a non-negative int seed, got "
                    f"{show(rng)}")  # fmt: skip
