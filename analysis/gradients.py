"""Gradients of a refine gate: exact bounds of Appendix C and Figure 2d.

All ratios are relative to g(1 − g), the gradient of a plain sigmoid gate of the same value.
"""

from typing import Any

import mpmath
import numpy as np
import sympy
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate, _checks
from gatecore.analysis import _exact
from gatecore.analysis._arrays import Floats, as_gate, bisect
from gatecore.analysis._claim import CERTIFIED, CORRECTED, HOLDS, Result, claim
from gatecore.analysis._exact import same


def gradient_bounds(g: Gate | ArrayLike, logits: str = "both") -> tuple[Floats, Floats]:
    """Smallest and largest ratio ‖∇g‖ / (g(1 − g)) of a refine gate of value g (Figure 2d).

    Over all forget and refine gates that give g. The upper bound, in [1.1715, 2], is 2/(1 + √min(g,
    1 − g)), attained at r = 0 or r = 1; the lower one, in [1, 1.1131], is an interior minimum
    without closed form. Both are float64 arrays (...), of ``g``, a Gate or an array (...) in [0,
    1]: a Gate is exact also where g rounds to 1, and at 0 and 1 the bounds are the limits (1, 2).
    ``logits`` is "both", or "forget" for the gradient with respect to the forget gate's logit
    alone, which has the lower bound 1 and the same upper bound. ValueError if g is not in [0, 1],
    or ``logits`` is unknown.

    >>> lower, upper = gradient_bounds([0.5, 0.9, 0.999])
    >>> lower.round(6), upper.round(6)
    (array([1.113053, 1.024917, 1.00025 ]), array([1.171573, 1.519494, 1.938693]))
    """
    _checks.choice("logits", logits, ("both", "forget"))
    side = np.minimum(*as_gate(g))
    lower = np.ones_like(side) if logits == "forget" else _least_ratio(side)
    return lower[()], (2 / (1 + np.sqrt(side)))[()]


def _least_ratio(e: Floats) -> Floats:
    """The interior minimum, by bisection on the derivative; by symmetry e = min(g, 1 − g) is 1 − g.

    1 − f is e·t with t from t0 = 1/(1 + √(1 − e)), where r = 0, to 1, where f = g. The minimum is
    close to t0 for small e, so the variable is t − t0: nothing cancels.
    """
    end = 1 - 1 / (1 + np.sqrt(1 - e))
    low, _ = bisect(lambda tau: ~(_ratio_parts(e, tau)[2] > 0), np.zeros_like(e), end, 60)
    by_forget, by_refine, _ = _ratio_parts(e, low)
    return np.hypot(by_forget, by_refine)


def _ratio_parts(e: Floats, tau: Floats) -> tuple[Floats, Floats, Floats]:
    """(∂g/∂x, ∂g/∂y) / (g(1 − g)) at t = t0 + τ, and half the slope of their sum of squares."""
    start = 1 / (1 + np.sqrt(1 - e))
    t = start + tau
    x = 1 + e * (t - 1) ** 2 / (1 - e)
    factor = 2 - 2 * e * start - e * tau  # (2t − 1 − e t²)/τ
    slope = (1 - e * t * t) * factor / (2 * t * (1 - e * t) * (1 - e))
    logarithmic = -2 * e * t / (1 - e * t * t) - e / factor - 1 / t + e / (1 - e * t)
    derivative = 2 * e * (t - 1) / (1 - e) * x + slope**2 * tau * (1 + tau * logarithmic)
    return x, slope * tau, derivative


# ---- the claims ------------------------------------------------------------------------------


def _gradient() -> tuple[sympy.Symbol, sympy.Symbol, Gate, Any, Any]:
    """f, r, the effective gate and its derivatives by both logits, as functions of f and r."""
    f, r, odds, refine_odds = sympy.symbols("f r X Y", positive=True)
    # logits log(f/(1 − f)): the chain goes through the library's sigmoid
    effective = gatecore.refine(*(gatecore.sigmoid(sympy.log(o)) for o in (odds, refine_odds)))
    back = {odds: f / (1 - f), refine_odds: r / (1 - r)}
    slopes = (odd * sympy.diff(effective.value, odd) for odd in back)
    sides = [sympy.cancel(one.subs(back)) for one in (*effective, *slopes)]
    return f, r, Gate(*sides[:2]), sides[2], sides[3]


@claim("Section 2.3, gradient of a gate", HOLDS,
       "The gradient of a gate is a function of its value, f(1-f), and vanishes at 0 and 1",
       "As stated, and `sigmoid_vjp` computes it, to the size of the smaller side")  # fmt: skip
def _check_plain_gradient() -> Result:
    odds, v = sympy.symbols("X v", positive=True)
    gate = gatecore.sigmoid(sympy.log(odds))
    slope = gatecore.sigmoid_vjp(sympy.log(odds), v)
    x = np.array([-700.0, -100.0, 0.0, 100.0, 700.0])
    ends = gatecore.sigmoid_vjp(x, np.ones(5))
    return True, [
        ("df/dx = f(1-f)", same(odds * sympy.diff(gate.value, odds), gate.value * gate.complement)),
        ("sigmoid_vjp is v f(1-f)", same(slope, v * gate.value * gate.complement)),
        ("at logits 0, +-100, +-700 to 1e-13",
         np.allclose(ends, np.exp(-abs(x)) / (1 + np.exp(-abs(x))) ** 2, rtol=1e-13, atol=0)),
    ]  # fmt: skip


@claim("Appendix C, gradient", HOLDS, "By the logits of f and r, g has the derivatives 2f(1-f)(r + "
       "(1-2r)f) and 2fr(1-r)(1-f)", "As stated; the first is also g(1-g) + (g-f)^2")  # fmt: skip
def _check_gradient() -> Result:
    f, r, g, by_forget, by_refine = _gradient()
    one = sympy.Integer(1)
    d_forget, d_refine = gatecore.refine_vjp(Gate(f, 1 - f), Gate(r, 1 - r), one)
    stable = 2 * f * (1 - f) * (r * (1 - f) + (1 - r) * f)
    return True, [
        ("dg/dx = 2f(1-f)(r + (1-2r)f)", same(by_forget, 2 * f * (1 - f) * (r + (1 - 2 * r) * f))),
        ("dg/dy = 2fr(1-r)(1-f)", same(by_refine, 2 * f * r * (1 - r) * (1 - f))),
        ("refine_vjp and sigmoid_vjp give them",
         same(d_forget * f * (1 - f), by_forget) and same(d_refine * r * (1 - r), by_refine)),
        ("dg/dx = g(1-g) + (g-f)^2 = 2f(1-f)(r(1-f) + (1-r)f)",
         same(by_forget, g.value * g.complement + (g.value - f) ** 2)
         and same(by_forget, stable))]  # fmt: skip


@claim("Appendix C, norm", CORRECTED,
       "|grad g|^2 = ((g-f^2)(1-2f) + 2f^2(1-f))^2 + (g-f^2)^2 (1 - (g-f^2)/(2f(1-f)))",
       "The last factor is squared; our copy of the text may have lost the square")  # fmt: skip
def _check_norm() -> Result:
    f, _, g, by_forget, by_refine = _gradient()
    norm = by_forget**2 + by_refine**2
    lift = g.value - f**2
    first = (lift * (1 - 2 * f) + 2 * f**2 * (1 - f)) ** 2
    last = 1 - lift / (2 * f * (1 - f))
    return same(norm, first + lift**2 * last), [
        ("with the last factor squared it is the norm", same(norm, first + lift**2 * last**2)),
    ]


@claim("Figure 2d, upper bound", HOLDS, "At equal g the refine gate's gradient exceeds the plain "
       "gate's by at most the upper curve", "The curve is 2/(1 + sqrt(min(g, 1-g))), attained at "
       "the ends of the band; below 2 always", CERTIFIED)  # fmt: skip
def _check_upper_bound() -> Result:
    s, a = sympy.symbols("s a", positive=True)
    f, r, g, by_forget, by_refine = _gradient()
    level = _square_on_level(f, r, g, by_forget**2 + by_refine**2, s**2).subs(f, 1 - a)
    coefficients, divides = _exact.upper_bound(sympy.cancel(level), s, a)
    maximum = sympy.cancel(level.subs(a, s) / (s**2 * (1 - s**2)) ** 2)
    flip = {f: 1 - f, r: 1 - r}
    flipped = (side.subs(flip, simultaneous=True) for side in (by_forget, by_refine))
    symmetric = all(map(same, flipped, (by_forget, by_refine)))
    grid = np.concatenate([np.logspace(-300, -0.302, 60), 1 - np.logspace(-9, -0.302, 60)])
    exact = 2 / (1 + np.sqrt(np.minimum(grid, 1 - grid)))
    return True, [
        (f"g >= 1/2: all {len(coefficients)} Bernstein coefficients of the difference are >= 0",
         divides and all(c.is_nonnegative for c in coefficients)),
        ("attained at r = 1: 2/(1 + sqrt(1-g))", same(maximum, (2 / (1 + s)) ** 2)),
        ("g <= 1/2 follows: the gradient is symmetric under negation", symmetric),
        ("gradient_bounds returns it", np.allclose(gradient_bounds(grid)[1], exact, rtol=1e-15)),
    ]  # fmt: skip


@claim("Figure 2d, lower bound", HOLDS, "At equal g the refine gate's gradient is at least the "
       "lower curve times the plain gate's", "The curve is 1.11305292642936 at g = 1/2 and falls "
       "to 1 at both ends without reaching it", CERTIFIED)  # fmt: skip
def _check_lower_bound() -> Result:
    f, r, g, by_forget, by_refine = _gradient()
    norm = by_forget**2 + by_refine**2
    turning = sympy.diff(norm, f) * sympy.diff(g.value, r)
    turning -= sympy.diff(norm, r) * sympy.diff(g.value, f)
    cubic = (f**3 * (1 - 2 * r) ** 2 - f**2 * (1 - 2 * r) * (1 - 3 * r)
             - f * r**2 * (2 * r**2 - 4 * r + 1) - r**3 * (1 - r))  # fmt: skip
    t, e = sympy.symbols("t e", positive=True)
    near_one = _square_on_level(f, r, g, norm, e).subs(f, 1 - e * t) / (e * (1 - e)) ** 2
    series = 1 + e / 4 - 5 * e**3 / 64
    return True, [("stationary where the cubic in f vanishes",
                   same(turning, -16 * f**2 * (1 - f) ** 2 * cubic)),
                  *_isolated_minima(f, r, g, norm),
                  ("dg/dx > g(1-g) unless f = g, and there dg/dy > 0: 1 is not attained",
                   same(by_forget, g.value * g.complement + (g.value - f) ** 2)),
                  ("as e = 1-g -> 0 it is 1 + e/4 - 5e^3/64 + ...",
                   _exact.least_series_is(series, sympy.cancel(near_one), t, e))]  # fmt: skip


def _isolated_minima(f: Any, r: Any, g: Gate, norm: Any) -> list[tuple[str, bool]]:
    facts = []
    for value in ("1/2", "3/4", "99/100", "999999/1000000"):
        at = sympy.Rational(value)
        square = sympy.cancel(_square_on_level(f, r, g, norm, 1 - at) / (at * (1 - at)) ** 2)
        low, high = _exact.least_value(square, f, lambda x, at=at: 0 < x < 1 and x**2 <= at
                                       and (1 - x) ** 2 <= 1 - at)  # fmt: skip
        ratio = float(mpmath.sqrt(low))
        bound = gradient_bounds(float(at))[0]
        ends = 2 / (1 + mpmath.sqrt(float(max(at, 1 - at))))  # the smaller of both ends' ratios
        certified = bool(high - low < 1e-25 and abs(ratio - bound) < 1e-12 and ratio < ends)
        facts.append((f"g = {value}: minimum {ratio:.14f}", certified))
        if at == sympy.Rational(1, 2):
            positive = [5 * m**4 - 96 * m**3 + 64 * m**2 - 768 * m + 1024 > 0 for m in (low, high)]
            root = "its square is a root of 5M^4-96M^3+64M^2-768M+1024"
            facts.append((root, positive == [True, False]))
    return facts


def _square_on_level(f: Any, r: Any, g: Gate, norm: Any, complement: Any) -> Any:
    """‖∇g‖² as a function of f where 1 − g is ``complement``."""
    (refine,) = sympy.solve(sympy.Eq(g.complement, complement), r)
    return sympy.cancel(norm.subs(r, refine))


@claim("Figure 2d, forget logit alone", HOLDS, "",
       "By this logit the ratio's minimum is 1, at f = g; the maximum is the same")  # fmt: skip
def _check_forget_logit() -> Result:
    f, r, g, by_forget, _ = _gradient()
    root = sympy.Symbol("q", positive=True)  # √g
    plain = g.value * g.complement
    top = sympy.cancel((by_forget / plain).subs(r, 0).subs(f, root))
    bottom = sympy.cancel((by_forget / plain).subs(r, 1).subs(f, 1 - root))  # q = √(1 − g)
    lower, upper = gradient_bounds([1e-9, 0.3, 0.5, 0.9], logits="forget")
    return True, [
        ("ratio 1 + (g-f)^2/(g(1-g)): smallest, 1, at f = g",
         same(by_forget - plain, (g.value - f) ** 2)),
        ("largest at an end of the band: 2/(1 + sqrt g) at r = 0, 2/(1 + sqrt(1-g)) at r = 1",
         same(top, 2 / (1 + root)) and same(bottom, 2 / (1 + root))),
        ("gradient_bounds(logits='forget') returns both",
         np.all(lower == 1) and np.array_equal(upper, gradient_bounds([1e-9, 0.3, 0.5, 0.9])[1])),
    ]  # fmt: skip


@claim("Section 2.3, saturation", CORRECTED, "Refining bypasses the saturating gradient problem",
       "At equal g the gain is below 2 and 1-g sets the size; logits move half as far")  # fmt: skip
def _check_saturation() -> Result:
    f, r, g, by_forget, _ = _gradient()
    speed = by_forget / g.complement  # d log D_g / dx, as log D = −log(1 − g)
    plain = sympy.Symbol("x", positive=True)
    sigmoid = gatecore.sigmoid(sympy.log(plain))
    plain_speed = plain * sympy.diff(sigmoid.value, plain) / sigmoid.complement
    plain_speed = plain_speed.subs(plain, f / (1 - f))
    worst = gradient_bounds(np.concatenate([np.logspace(-300, -0.302, 99), [0.5]]))[1].max()
    return worst > 2, [
        ("at equal g the ratio is below 2, its limit at both ends: the gradient decays like 1-g",
         worst <= 2),
        ("d log D/dx is 2f at r = 1, where a plain gate has f",
         same(speed.subs(r, 1), 2 * f) and same(plain_speed, f)),
        ("f = 0.9 reaches g = 0.99",
         same(g.value.subs({f: sympy.Rational(9, 10), r: 1}), "99/100"))]  # fmt: skip
