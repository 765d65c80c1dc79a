"""The distribution of refine(f, r) with r uniform in [δ, 1 − δ] and independent of f.

At a fixed f the effective gate's complement e is uniform between lo(a) = a² + 2δa(1 − a) and
hi(a) = a² + 2(1 − δ)a(1 − a), a = 1 − f. Its distribution function is the average over a, a sum of
non-negative terms only, so the far tails are accurate to the last digits.
"""

from collections.abc import Callable

import numpy as np

from gatecore import Gate, negate
from gatecore.analysis._arrays import Floats, bisect

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(80)


def uniform_quantile(edge: float, u: Floats) -> Gate:
    """Quantile of the effective gate with f, too, uniform in [δ, 1 − δ]; δ = ``edge`` < ½.

    The distribution is symmetric under negation, so only its lower half is inverted: for the value
    where u < ½, else for the complement e ≤ ½. The unknown is a2 − δ with lo(a2) = e.
    """
    tail = np.minimum(u, 1 - u)
    start = np.where(tail > 0, _invert(lambda x: uniform_cdf(edge, x), -400.0, tail), 0) + edge
    smaller = start * (start + 2 * edge * (1 - start))
    gate = Gate(smaller, 1 - smaller)
    return Gate(*(np.where(u < 0.5, *sides) for sides in zip(gate, negate(gate), strict=True)))


def uniform_cdf(edge: float, beyond: Floats) -> Floats:
    """P(1 − g ≤ lo(δ + ``beyond``)) for f and r independent and uniform in [δ, 1 − δ].

    For a below a1, hi(a1) = e, the probability is 1; for a between a1 and a2 it is
    (e − lo(a))/(hi(a) − lo(a)), integrated over the logit of a by Gauss-Legendre quadrature.
    """
    width = 1 - 2 * edge
    a2 = edge + beyond
    e = a2 * (a2 + 2 * edge * (1 - a2))
    below = e / ((1 - edge) + np.sqrt((1 - edge) ** 2 - width * e))
    a1 = np.maximum(below, edge)
    gap = np.where(below > edge, a2 - a1, beyond)
    span = np.log1p(gap / (a1 * (1 - a2)))  # logit(a2) − logit(a1)
    back = span[..., None] * (1 - _NODES) / 2
    odds = a2[..., None] * np.exp(-back) + (1 - a2[..., None])
    short = a2[..., None] * (1 - a2[..., None]) * -np.expm1(-back) / odds  # a2 − a
    integrand = short * ((2 * a2[..., None] - short) * width + 2 * edge)
    integral = span / 2 * (integrand @ _WEIGHTS)
    return (a1 - edge) / width + integral / (2 * width**2)


def ordered_quantile(n: int, edge: float, u: Floats) -> Gate:
    """Quantile of the effective gate with f = j/n, j = 1..n: above u = 1 − 1/n it is 1."""
    rank = np.arange(1, n + 1) / n
    upper = u >= 0.5
    tail = np.where(upper, 1 - u, u)
    starts = np.where(upper[..., None], (n - np.arange(1, n + 1)) / n, rank)
    smaller = _invert_mean(starts, edge, tail)
    gate = Gate(smaller, 1 - smaller)
    return Gate(*(np.where(upper, *sides) for sides in zip(negate(gate), gate, strict=True)))


def _invert_mean(a: Floats, edge: float, tail: Floats) -> Floats:
    """The e at which the distribution function, averaged over a (..., n), is ``tail``."""
    least = a * (a + 2 * edge * (1 - a))
    width = 2 * a * (1 - a) * (1 - 2 * edge)
    atom = (a == 0).mean(axis=-1)

    def cdf(e: Floats) -> Floats:
        excess = e[..., None] - least
        share = np.clip(excess / np.where(width > 0, width, 1), 0, 1)
        return np.where(width > 0, share, excess >= 0).mean(axis=-1)

    return np.where(tail <= atom, 0, _invert(cdf, -80.0, tail))


def _invert(cdf: Callable[[Floats], Floats], low: float, tail: Floats) -> Floats:
    """The x in [exp(low), 1] at which ``cdf`` is ``tail``, by bisection of ln x."""
    start, end = np.full(tail.shape, low), np.zeros(tail.shape)
    return np.exp(sum(bisect(lambda x: cdf(np.exp(x)) < tail, start, end, 62)) / 2)
