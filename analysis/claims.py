"""The paper's claims, judged by running the library's own functions."""

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
    """All claims, not yet judged, in the order of the report."""
    modules = (
        decay, chrono, initial, ordered, equivalence, gradients, saturation, permutation
    )  # fmt: skip
    return tuple(proposition for module in modules for proposition in module.CLAIMS)


def verify() -> list[Claim]:
    """Judge every claim of the paper anew: some fifteen seconds.

    Returns
    -------
    list of Claim
        ``ok`` where the verdict is the one expected of a right library.
    """
    return [proposition.judge() for proposition in propositions()]
