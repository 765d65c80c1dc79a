"""Initial law of the effective gate for f uniform in (0, 1): densities, and Listing 2's choice."""

from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate, Mechanism
from gatecore.analysis._claim import (
    FALSE,
    HOLDS,
    MONTE_CARLO,
    PROOF,
    Finding,
    Proposition,
    finding,
    proved,
    same,
    symbolic_gate,
)
from gatecore.analysis.timescales import chrono_span, sample_timescales, timescale_quantile

Floats = np.ndarray


def initial_gate_density(
    mechanism: str | Mechanism, g: Gate | ArrayLike, size: int | None = None
) -> Floats:
    """Density (...) at g of a mechanism's effective forget gate at initialization.

    In the limit of large layers: uniform gates fill (0, 1), ordered ones are j/n with n → ∞. With
    an independent uniform refine gate it is ½ ln[(1 + √g)(1 + √(1 − g))/√(g(1 − g))].

    Parameters
    ----------
    mechanism : str or Mechanism
    g : Gate or array (...), in [0, 1]
        Given as a Gate it is exact where g rounds to 1.
    size : int, optional
        Hidden size, needed where chrono biases take T_max from it.

    Raises
    ------
    ValueError
        If all units start at one gate or at countably many (constant biases, chrono without
        T_max), if chrono biases are crossed with an independent uniform refine gate, or if g is
        not in [0, 1].

    Examples
    --------
    >>> initial_gate_density("UR", [0.01, 0.5, 0.99]).round(4)
    array([0.5076, 2.    , 0.5076])
    """
    row = gatecore.mechanism(mechanism)
    gate = g if isinstance(g, Gate) else Gate(np.asarray(g, float), 1 - np.asarray(g, float))
    if not all(np.all((side >= 0) & (side <= 1)) for side in gate):
        raise ValueError("g must lie in [0, 1]")
    constant = row.activation == "sigmoid" and row.initial == "constant"
    if constant or (row.initial == "chrono" and row.t_max is None):
        raise ValueError(f"mechanism {row.name!r} starts with point masses: there is no density")
    if row.auxiliary == "refine" and row.refine_bias == "uniform":
        return _independent_density(row, gate)
    main, slope = _main_gate(row, gate)
    return (_main_density(row, main, size) / slope)[()]


def _independent_density(row: Mechanism, gate: Gate) -> Floats:
    if row.initial == "chrono":
        raise ValueError(
            f"mechanism {row.name!r} crosses chrono biases with an independent uniform refine "
            "gate: its density has no closed form"
        )
    with np.errstate(divide="ignore"):
        return (sum(np.log1p(np.sqrt(side)) - np.log(side) / 2 for side in gate) / 2)[()]


def _main_gate(row: Mechanism, gate: Gate) -> tuple[Gate, Floats]:
    """The main gate of units whose effective gate is ``gate``, and d effective / d main."""
    g, complement = gate
    if row.auxiliary == "master":  # g = F(1 + F)/2
        main = 4 * g / (1 + np.sqrt(1 + 8 * g))
        rest = 2 * complement / (2 + main)  # 1 − g = (1 − F)(2 + F)/2
        return Gate(main, rest), main + 0.5
    if row.auxiliary == "refine" and row.refine_bias == "opposed" and row.activation == "sigmoid":
        # g − ½ = 2v³ + v/2 with v = f − ½: Cardano's root, by hyperbolic functions
        middle = (g - complement) / 2
        v = np.sinh(np.arcsinh(3 * np.sqrt(12) * middle) / 3) / np.sqrt(3)
        return Gate(0.5 + v, 0.5 - v), 0.5 + 6 * v * v
    if row.auxiliary == "refine" and row.refine_bias == "opposed" and row.forget_bias:
        raise ValueError(f"mechanism {row.name!r} with a forget bias has no closed density here")
    return gate, np.ones_like(g)


def _main_density(row: Mechanism, main: Gate, size: int | None) -> Floats:
    if row.initial != "chrono":
        return np.ones_like(main.value)
    span = chrono_span(row, size)  # D uniform in [2, T_max], so 1/(T_max − 2) · dD/df
    inside = (main.complement <= 0.5) & (main.complement >= 1 / span)
    return np.where(inside, 1 / np.where(inside, main.complement, 1) ** 2, 0) / (span - 2)


# ---- the claims ------------------------------------------------------------------------------

_U = sympy.Symbol("u", positive=True)


def _started(refine: Gate) -> Any:
    """The effective gate of f = u with this refine gate, as a polynomial in u."""
    return sympy.expand(gatecore.refine(Gate(_U, 1 - _U), refine).value)


def _moment(g: Any, power: int) -> Any:
    return sympy.integrate(sympy.expand(g**power), (_U, 0, 1))


def _variance(g: Any) -> Any:
    return _moment(g, 2) - _moment(g, 1) ** 2


def check_listing_2() -> Finding:
    """r = 1 − f, the `opposed` refine bias: is g uniform as f is?"""
    g = _started(Gate(1 - _U, _U))
    tail = sympy.limit((1 - g) / (1 - _U), _U, 1)  # 1 − g ~ tail·(1 − u): P(D > x) ~ 1/(tail·x)
    sampled, error = _sampled_variance("UR")
    exact = float(sympy.Rational(23, 420))
    return finding(
        same(g, _U),
        ("g = 2u - 3u^2 + 2u^3, mean 1/2",
         same(g, 2 * _U - 3 * _U**2 + 2 * _U**3) and _moment(g, 1) == sympy.Rational(1, 2)),
        ("variance 23/420, where the uniform law has 1/12",
         _variance(g) == sympy.Rational(23, 420)),
        ("P(D > x) ~ 1/(2x), where it has 1/x", tail == 2),
        (f"UR layers of 4096 units: {sampled:.4f} +- {_bound(error):.4f} holds {exact:.4f}",
         abs(sampled - exact) < _bound(error)),
        ("initial_gate_density is its derivative's inverse", _density_matches(g)),
    )  # fmt: skip


def _density_matches(g: Any) -> bool:
    u = np.linspace(0.001, 0.999, 301)
    value, slope = (sympy.lambdify(_U, x)(u) for x in (g, sympy.diff(g, _U)))
    return np.allclose(initial_gate_density("UR", value), 1 / slope, rtol=1e-11)


def _sampled_variance(mechanism: str | Mechanism) -> tuple[float, float]:
    """Variance of the initial gates of many units, and its standard error."""
    gates = 1 - 1 / sample_timescales(mechanism, 4096, np.random.default_rng(11), 8 * 4096)
    squares = (gates - 0.5) ** 2
    return float(squares.mean()), float(squares.std() / np.sqrt(len(gates)))


def _bound(error: float) -> float:
    return 3.89 * error + 2 / 4096  # the truncation to [1/d, 1 − 1/d] moves it by less than 2/d


def check_uniform_refine() -> Finding:
    """An independent uniform r: the density, by differentiating the distribution function."""
    (f, forget), (g, _) = symbolic_gate("f"), symbolic_gate("g")
    r = sympy.Symbol("r")
    (refine,) = sympy.solve(sympy.Eq(gatecore.refine(forget, Gate(r, 1 - r)).value, g), r)
    root, other = sympy.symbols("p q", positive=True)  # √g, √(1 − g)
    inside = sympy.integrate(sympy.apart(sympy.cancel(sympy.diff(refine, g)), f), f)
    by_band = inside.subs(f, root) - inside.subs(f, 1 - other)  # f from 1 − √(1 − g) to √g
    points = [Gate(x, 1 - x) for x in (0.001, 0.2, 0.5, 0.9)]
    shown = [
        abs(complex(by_band.subs({root: np.sqrt(p.value), other: np.sqrt(p.complement)}).evalf())
            - initial_gate_density(_alternative("uniform"), p))
        for p in points
    ]  # fmt: skip
    x = sympy.Symbol("x")
    gate = gatecore.refine(Gate(_U, 1 - _U), Gate(x, 1 - x)).value
    square = sympy.integrate(sympy.expand(gate**2), (x, 0, 1), (_U, 0, 1))
    sampled, error = _sampled_variance(_alternative("uniform"))
    return finding(
        False,
        ("density 1/2 ln[(1+sqrt g)(1+sqrt(1-g))/sqrt(g(1-g))], the integral over the band of "
         "1/(2f(1-f))", max(shown) < 1e-12),
        ("variance 17/180", same(square - sympy.Rational(1, 4), sympy.Rational(17, 180))),
        (f"layers of 4096 units: {sampled:.4f} +- {_bound(error):.4f} holds {17 / 180:.4f}",
         abs(sampled - 17 / 180) < _bound(error)),
    )  # fmt: skip


def _alternative(refine_bias: str) -> Mechanism:
    return gatecore.mechanism("UR", refine_bias=refine_bias)


def check_other_starts() -> Finding:
    """The same sign, r = f, and the neutral start r = ½."""
    same_sign = _started(Gate(_U, 1 - _U))
    neutral = _started(Gate(sympy.Rational(1, 2), sympy.Rational(1, 2)))
    tail = sympy.limit((1 - same_sign) / (1 - _U) ** 2, _U, 1)
    u = np.linspace(0.01, 0.99, 99)
    plain = timescale_quantile("U", 512, u)
    return proved(
        ("r = f: g = 3u^2 - 2u^3, variance 17/140, P(D > x) ~ 1/sqrt(3x)",
         same(same_sign, 3 * _U**2 - 2 * _U**3)
         and _variance(same_sign) == sympy.Rational(17, 140) and tail == 3),
        ("r = 1/2: g = u, the only one of the four that is uniform", same(neutral, _U)),
        ("neutral UR layers start with the timescales of U",
         np.allclose(timescale_quantile(_alternative("neutral"), 512, u), plain, rtol=1e-12)),
    )  # fmt: skip


CLAIMS = (
    Proposition(
        "Listing 2, initial law",
        "UR gates start with the same, uniform, distribution as U gates (Figure 4)",
        "With the listing's r = 1-f they start at 2u-3u^2+2u^3, with half as many long timescales",
        f"{PROOF}; {MONTE_CARLO}", FALSE, check_listing_2,
    ),
    Proposition(
        "Section 2.4, uniform refine",
        "With the refine gate initialized uniformly too (2.4), UR starts like U (Figure 4)",
        "An independent uniform r makes g wider than uniform, variance 17/180",
        f"{PROOF}; {MONTE_CARLO}", FALSE, check_uniform_refine,
    ),
    Proposition(
        "Listing 2, other starts",
        "The refine gate starts with bias -b; the sign stands in Listing 2 alone",
        "The sign matters: +b gives tails ~ 1/sqrt(3x); only bias 0 keeps g uniform",
        PROOF, HOLDS, check_other_starts,
    ),
)  # fmt: skip
