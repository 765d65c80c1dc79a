"""Distribution of the initial effective gate: its density, and the choices of Listing 2."""

from typing import Any

import numpy as np
import sympy
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate, Mechanism
from gatecore.analysis import timescales
from gatecore.analysis._arrays import Floats, as_gate
from gatecore.analysis._claim import HOLDS, SAMPLED, Result, claim
from gatecore.analysis._exact import same, symbolic_gate
from gatecore.analysis.timescales import sample_timescales, timescale_quantile


def initial_gate_density(mechanism: str | Mechanism, g: Gate | ArrayLike,
                         size: int | None = None) -> Floats:  # fmt: skip
    """Density of the effective forget gate at initialization, in the limit of large layers.

    In this limit uniform gates have the range (0, 1), and ordered gates j/n with n → ∞ are uniform
    in it. With an independent uniform refine gate the density is ½ ln[(1 + √g)(1 + √(1 − g))/√(g(1
    − g))], the integral of 1/(2f(1 − f)) over the band of equation 12. It is a float64 array (...),
    in [0, ∞], of ``g``, a Gate or an array (...) in [0, 1]; a Gate is exact also where g rounds to
    1. ``size`` is the hidden size, required if chrono biases take T_max from it.

    ValueError if g is not in [0, 1]; if all units start at one gate or at countably many (constant
    biases, chrono without T_max); if the density has no closed form (an independent uniform refine
    gate on chrono biases, an opposed one on cumax gates with a forget bias); or if ``size`` is
    required and missing.

    >>> initial_gate_density("UR", [0.01, 0.5, 0.99]).round(4)
    array([1.5468, 0.8814, 1.5468])
    """
    mechanism = gatecore.mechanism(mechanism)
    gate = as_gate(g)
    constant = mechanism.activation == "sigmoid" and mechanism.initial == "constant"
    if constant or (mechanism.initial == "chrono" and mechanism.t_max is None):
        raise ValueError(f"mechanism {mechanism.name!r} starts with point masses, which have no "
                         "density: use timescale_quantile")  # fmt: skip
    if not timescales.independent_refine(mechanism):
        main, slope = _main_gate(mechanism, gate)
        return (_main_density(mechanism, main, size) / slope)[()]
    if mechanism.initial == "chrono":
        raise ValueError(f"mechanism {mechanism.name!r} combines chrono biases with an independent "
                         "uniform refine gate: its density has no closed form; use "
                         "sample_timescales")  # fmt: skip
    with np.errstate(divide="ignore"):
        return (sum(np.log1p(np.sqrt(side)) - np.log(side) / 2 for side in gate) / 2)[()]


def _main_gate(mechanism: Mechanism, gate: Gate) -> tuple[Gate, Floats]:
    """The main gate of units whose effective gate is ``gate``, and d effective / d main."""
    g, complement = gate
    opposed = mechanism.auxiliary == "refine" and mechanism.refine_bias == "opposed"
    if mechanism.auxiliary == "master":  # g = F(1 + F)/2
        main = 4 * g / (1 + np.sqrt(1 + 8 * g))
        main_complement = 2 * complement / (2 + main)  # 1 − g = (1 − F)(2 + F)/2
        return Gate(main, main_complement), main + 0.5
    if opposed and mechanism.activation == "sigmoid":
        # g − ½ = 2v³ + v/2 with v = f − ½: Cardano's root, by hyperbolic functions
        middle = (g - complement) / 2
        v = np.sinh(np.arcsinh(3 * np.sqrt(12) * middle) / 3) / np.sqrt(3)
        return Gate(0.5 + v, 0.5 - v), 0.5 + 6 * v * v
    if opposed and mechanism.forget_bias:
        raise ValueError(f"mechanism {mechanism.name!r} with forget_bias={mechanism.forget_bias} "
                         "has no density in closed form: use timescale_quantile")  # fmt: skip
    return gate, np.ones_like(g)


def _main_density(mechanism: Mechanism, main: Gate, size: int | None) -> Floats:
    if mechanism.initial != "chrono":
        return np.ones_like(main.value)
    span = timescales.chrono_span(mechanism, size)  # D uniform in [2, T_max]: 1/(T_max − 2) · dD/df
    inside = (main.complement <= 0.5) & (main.complement >= 1 / span)
    return np.where(inside, 1 / np.where(inside, main.complement, 1) ** 2, 0) / (span - 2)


# ---- the claims ------------------------------------------------------------------------------

_U = sympy.Symbol("u", positive=True)
_OPPOSED = gatecore.mechanism("UR", refine_bias="opposed")


def _initial_gate(refine: Gate) -> Any:
    """The effective gate of f = u with this refine gate, as a polynomial in u."""
    return sympy.expand(gatecore.refine(Gate(_U, 1 - _U), refine).value)


def _moments(g: Any) -> tuple[Any, Any]:
    """Mean and variance of a polynomial in the uniform number u."""
    mean, square = (sympy.integrate(sympy.expand(g**power), (_U, 0, 1)) for power in (1, 2))
    return mean, square - mean**2


@claim("Listing 2, initial law", HOLDS, "", "With the listing's r = 1-f, g starts at 2u-3u^2+2u^3, "
       "u = f uniform: half as many long timescales", SAMPLED)  # fmt: skip
def _check_listing_2() -> Result:
    g = _initial_gate(Gate(1 - _U, _U))
    tail = sympy.limit((1 - g) / (1 - _U), _U, 1)  # 1 − g ~ tail·(1 − u): P(D > x) ~ 1/(tail·x)
    mean, variance = _moments(g)
    u = np.linspace(0.001, 0.999, 301)
    value, slope = (sympy.lambdify(_U, x)(u) for x in (g, sympy.diff(g, _U)))
    return True, [
        ("g = 2u - 3u^2 + 2u^3, mean 1/2",
         same(g, 2 * _U - 3 * _U**2 + 2 * _U**3) and mean == sympy.Rational(1, 2)),
        ("variance 23/420 (uniform gates: 1/12)", variance == sympy.Rational(23, 420)),
        ("P(D > x) ~ 1/(2x) (uniform gates: 1/x)", tail == 2),
        _sampled_variance(_OPPOSED, 23 / 420),
        ("initial_gate_density is the reciprocal of its derivative",
         np.allclose(initial_gate_density(_OPPOSED, value), 1 / slope, rtol=1e-11))]  # fmt: skip


def _sampled_variance(mechanism: str | Mechanism, exact: float) -> tuple[str, bool]:
    """The fact that the initial gates of many units have this variance, within its error."""
    gates = 1 - 1 / sample_timescales(mechanism, 4096, np.random.default_rng(11), 8 * 4096)
    squares = (gates - 0.5) ** 2
    variance, error = float(squares.mean()), float(squares.std() / np.sqrt(len(gates)))
    bound = 3.89 * error + 2 / 4096  # the range [1/d, 1 − 1/d] changes it by less than 2/d
    text = f"layers of 4096 units: {variance:.4f} +- {bound:.4f} contains {exact:.4f}"
    return text, abs(variance - exact) < bound


@claim("Section 2.4, uniform refine", HOLDS, "", "An independent uniform r makes the distribution "
       "of g wider than uniform: variance 17/180", SAMPLED)  # fmt: skip
def _check_uniform_refine() -> Result:
    (f, forget), (g, _) = symbolic_gate("f"), symbolic_gate("g")
    r = sympy.Symbol("r")
    (refine,) = sympy.solve(sympy.Eq(gatecore.refine(forget, Gate(r, 1 - r)).value, g), r)
    root, other = sympy.symbols("p q", positive=True)  # √g, √(1 − g)
    antiderivative = sympy.integrate(sympy.apart(sympy.cancel(sympy.diff(refine, g)), f), f)
    # over the band, f from 1 − √(1 − g) to √g
    density = antiderivative.subs(f, root) - antiderivative.subs(f, 1 - other)
    points = [Gate(x, 1 - x) for x in (0.001, 0.2, 0.5, 0.9)]
    roots = [{root: np.sqrt(p.value), other: np.sqrt(p.complement)} for p in points]
    errors = [abs(complex(density.subs(q).evalf()) - initial_gate_density("UR", p))
              for p, q in zip(points, roots, strict=True)]  # fmt: skip
    x = sympy.Symbol("x")
    gate = gatecore.refine(Gate(_U, 1 - _U), Gate(x, 1 - x)).value
    square = sympy.integrate(sympy.expand(gate**2), (x, 0, 1), (_U, 0, 1))
    return True, [
        ("density 1/2 ln[(1+sqrt g)(1+sqrt(1-g))/sqrt(g(1-g))], the integral over the band of "
         "1/(2f(1-f))", max(errors) < 1e-12),
        ("variance 17/180", same(square - sympy.Rational(1, 4), sympy.Rational(17, 180))),
        _sampled_variance("UR", 17 / 180)]  # fmt: skip


@claim("Listing 2, other starts", HOLDS,
       "The refine gate starts with bias -b; the sign appears in Listing 2 alone",
       "The sign matters: +b gives tails ~ 1/sqrt(3x); only bias 0 keeps g uniform")  # fmt: skip
def _check_other_starts() -> Result:
    same_sign = _initial_gate(Gate(_U, 1 - _U))
    neutral = _initial_gate(Gate(sympy.Rational(1, 2), sympy.Rational(1, 2)))
    tail = sympy.limit((1 - same_sign) / (1 - _U) ** 2, _U, 1)
    u = np.linspace(0.01, 0.99, 99)
    uniform = timescale_quantile("U", 512, u)
    neutral_ur = timescale_quantile(gatecore.mechanism("UR", refine_bias="neutral"), 512, u)
    return True, [("r = f: g = 3u^2 - 2u^3, variance 17/140, P(D > x) ~ 1/sqrt(3x)",
                   same(same_sign, 3 * _U**2 - 2 * _U**3)
                   and _moments(same_sign)[1] == sympy.Rational(17, 140) and tail == 3),
                  ("r = 1/2: g = u, the only one of the four that is uniform", same(neutral, _U)),
                  ("neutral UR layers start with the timescales of U",
                   np.allclose(neutral_ur, uniform, rtol=1e-12))]  # fmt: skip
