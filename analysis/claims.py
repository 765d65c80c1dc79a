"""The paper's claims, checked on the library's own functions."""

from gatecore.analysis import (
    chrono,
    decay,
    equivalence,
    gradients,
    initial,
    ordered,
    permutation,
    saturation,
)
from gatecore.analysis._claim import Claim, Proposition

__all__ = ["Claim", "Proposition", "propositions", "verify"]


def propositions() -> tuple[Proposition, ...]:
    """All claims before they are checked, in the order of the report."""
    modules = decay, chrono, initial, ordered, equivalence, gradients, saturation, permutation
    values = (value for module in modules for value in vars(module).values())
    return tuple(value for value in values if isinstance(value, Proposition))


def verify() -> list[Claim]:
    """Check every claim of the paper (Gu et al. 2020); takes several seconds.

    The order is that of :func:`propositions`; ``ok`` is True in all if the library is correct.

    >>> claim = propositions()[2].judge()  # one element of the list
    >>> claim.name, claim.verdict, claim.ok
    ('Proposition 2', 'holds as corrected', True)
    """
    return [proposition.judge() for proposition in propositions()]
