"""Initial gate biases: uniform gate initialization (UGI), chrono, and constants.

All biases are float64 NumPy arrays of logits, drawn by the inverse CDFs named ``…_quantile``. In
every function ``size`` is the number of biases, at least 1, and ``rng`` a numpy.random.Generator or
an integer seed; an argument out of range raises ValueError, one of another type TypeError.
"""

import functools

import numpy as np
from numpy.typing import ArrayLike

from gatecore import _checks

Rng = np.random.Generator | int
Floats = np.ndarray

# Σ_{k≥1} 1/(k ln²(k+1)), the normaliser of the chrono law without T_max.
CHRONO_NORMALISER = 3.38773553195200231636953717942
_TABLE_LENGTH = 1 << 14


def uniform(size: int, rng: Rng, width: int | None = None) -> Floats:
    """Biases of uniform gate initialization, σ⁻¹(U[1/d, 1 − 1/d]) (equation 9, Listing 2).

    ``width`` is the hidden size d, at least 2, where it differs from ``size``, as for downsized
    master gates. Width 2 gives zeros.

    >>> uniform(4, rng=0).round(3)
    array([ 0.276, -0.469, -0.992, -1.055])
    """
    size = _checks.integer("size", size)
    draws = _checks.generator(rng).random(size)
    return uniform_quantile(draws, size if width is None else width)


def uniform_quantile(u: ArrayLike, width: int) -> Floats:
    """The inverse CDF of the UGI bias: σ⁻¹(1/d + u(1 − 2/d)), for u in [0, 1], d = ``width``.

    >>> uniform_quantile([0, 0.5, 1], width=4).round(3)
    array([-1.099,  0.   ,  1.099])
    """
    width = _checks.integer("width", width)
    if width < 2:
        raise ValueError(f"uniform gate initialization needs a width of at least 2, got {width}, "
                         "for which U[1/d, 1 - 1/d] is empty: take a wider layer, or a constant or "
                         "chrono bias")  # fmt: skip
    u = _unit_interval(u)
    centred = (2 * u - 1) * (1 - 2 / width)
    low = 1 / width + u * (1 - 2 / width)
    high = 1 / width + (1 - u) * (1 - 2 / width)
    central = np.abs(centred) < 0.5
    near_half = 2 * np.arctanh(np.where(central, centred, 0))
    return np.where(central, near_half, np.log(low) - np.log(high))


def chrono(size: int, t_max: float, rng: Rng) -> Floats:
    """Biases of chrono initialization, log U[1, T_max − 1]: timescales U[2, T_max] (equation 17).

    ``t_max`` is the longest dependency in steps, above 2.

    >>> chrono(3, t_max=100, rng=0).round(3)
    array([4.15 , 3.312, 1.613])
    """
    draws = _checks.generator(rng).random(_checks.integer("size", size))
    return chrono_quantile(draws, t_max)


def chrono_quantile(u: ArrayLike, t_max: float) -> Floats:
    """The inverse CDF of the chrono bias: log(1 + u(T_max − 2)), for u in [0, 1].

    >>> chrono_quantile([0, 1], t_max=100).round(3)
    array([0.   , 4.595])
    """
    t_max = _checks.number("t_max", t_max)
    if t_max <= 2:
        raise ValueError("t_max must be above 2 steps, for biases log U[1, t_max - 1], got "
                         f"{t_max}")  # fmt: skip
    return np.log1p(_unit_interval(u) * (t_max - 2))


def chrono_unbounded(size: int, rng: Rng) -> Floats:
    """Biases of chrono initialization without T_max (Appendix B.3).

    They are log T with P(T = k) ∝ 1/(k ln²(k + 1)), a distribution without a mean: T itself
    overflows float32 once in 300 draws.

    >>> chrono_unbounded(3, rng=0).round(3)
    array([0.693, 0.   , 0.   ])
    """
    return chrono_unbounded_quantile(_checks.generator(rng).random(_checks.integer("size", size)))


def chrono_unbounded_quantile(u: ArrayLike) -> Floats:
    """The inverse CDF of log T, P(T = k) = 1/(Z k ln²(k + 1)), k ≥ 1; u in [0, 1], infinite at 1.

    Exact by table for the first 2¹⁴ values of T. Beyond, the tail of the sum is an integral, to
    3e-6 of one term: with L = ln(k + 3/2), Σ_{j>k} 1/(j ln²(j + 1)) = 1/L +
    ∫_L^∞ t⁻²/(eᵗ − 1) dt.

    >>> np.exp(chrono_unbounded_quantile([0.5, 0.7, 0.9])).round()
    array([ 1.,  2., 19.])
    """
    u = _unit_interval(u)
    steps = np.searchsorted(_chrono_cdf(), u) + 1
    with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
        tail = CHRONO_NORMALISER * (1 - u)
        level = 1 / tail
        for _ in range(3):  # the correction is below 1e-6: each iteration gains that factor
            level = 1 / (tail - _tail_correction(level))
        exact = np.log(np.ceil(np.exp(level) - 1.5))
    far = np.where(level < 36, exact, level)  # beyond 2^52 doubles no longer tell integers apart
    return np.where(steps <= _TABLE_LENGTH, np.log(steps), far)


def constant(size: int, value: float) -> Floats:
    """The bias ``value`` for each of ``size`` units, float64.

    >>> constant(2, 1.0)
    array([1., 1.])
    """
    return np.full(_checks.integer("size", size), _checks.number("value", value))


@functools.cache
def _chrono_cdf() -> Floats:
    k = np.arange(1.0, _TABLE_LENGTH + 1)
    return np.cumsum(1 / (k * np.log1p(k) ** 2)) / CHRONO_NORMALISER


def _tail_correction(level: Floats) -> Floats:
    """∫_L^∞ t⁻²/(eᵗ − 1) dt = Σ_m E₂(mL)/L for L ≥ 9; the third term is below rounding."""
    return (_exponential_integral(level) + _exponential_integral(2 * level)) / level


def _exponential_integral(x: Floats) -> Floats:
    """E₂(x) for x ≥ 9 by its continued fraction."""
    fraction = np.zeros_like(x)
    for m in range(16, 0, -1):
        fraction = m * (m + 1) / (x + 2 + 2 * m - fraction)
    return np.exp(-x) / (x + 2 - fraction)


def _unit_interval(u: ArrayLike) -> Floats:
    u = np.asarray(_checks.unmasked("u", u), dtype=np.float64)
    if not np.all((u >= 0) & (u <= 1)):
        raise ValueError(f"u must lie in [0, 1], got values from {u.min()} to {u.max()}")
    return u
