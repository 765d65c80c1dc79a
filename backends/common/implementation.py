"""Implementations of a whole sequence, and the choice among those that a backend has."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from gatecore import _checks


class Implementation(Protocol):
    """One way to run a layer over a whole sequence, forward and backward.

    A backend lists its implementations in one tuple, in order of preference. What ``call`` is, and
    what ``forward`` and ``backward`` take, is for the backend to say.
    """

    @property
    def name(self) -> str:
        """The value of ``impl=`` that requests it, and what is reported after it ran."""

    def unsupported(self, call: Any, /) -> str | None:
        """Why it cannot run ``call``, as in "it computes in float32, not float64"; else None."""

    def forward(self, *arguments: Any, **keywords: Any) -> Any:
        """The layer's results."""

    def backward(self, *arguments: Any, **keywords: Any) -> Any:
        """The derivatives of :meth:`forward`."""


Chosen = TypeVar("Chosen", bound=Implementation)


def checked(implementations: Sequence[Implementation], impl: str) -> str:
    """``impl`` if it is "auto" or the name of an implementation; else ValueError."""
    return _checks.choice("impl", impl, ("auto", *(one.name for one in implementations)))


def choose(implementations: Sequence[Chosen], impl: str, call: Any) -> Chosen:
    """The implementation that runs ``call``: for "auto" the first that supports it, else by name.

    They are in order of preference, and at least one supports every call. ValueError if the name is
    unknown, or if that implementation does not support the call.
    """
    if isinstance(impl, str) and impl == "auto":
        for one in implementations:  # quicker than a generator: it counts in a short sequence
            if one.unsupported(call) is None:
                return one
    checked(implementations, impl)
    requested = next(one for one in implementations if one.name == impl)
    reason = requested.unsupported(call)
    if reason is not None:
        instead = choose(implementations, "auto", call).name
        raise ValueError(
            f"impl={impl!r} is not available: {reason}; use impl='auto' or {instead!r}"
        )
    return requested
