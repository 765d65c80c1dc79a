"""Chrono biases: the distribution without T_max, its normaliser, and the paper's T_max."""

from typing import Any

import mpmath
import numpy as np
import sympy

import gatecore
from gatecore import init
from gatecore.analysis._claim import CERTIFIED, CORRECTED, FALSE, HOLDS, Result, claim
from gatecore.analysis.timescales import timescale_quantile

_TERMS = 1 << 16


def normaliser_bracket(terms: int = _TERMS) -> tuple[float, float]:
    """Certified bounds of Z = Σ_{k≥1} 1/(k ln²(k + 1)) (Table 4, chrono without T_max).

    The terms are convex in k, so the remainder after n of them lies between the integral from
    n + 1 plus half a term and the integral from n + ½. With L = ln(x + 1) that integral from x is
    1/L + Σ_m E₂(mL)/L, and exp(−y)/(y + 2) < E₂(y) < exp(−y)/(y + 1).
    """
    k = np.arange(1.0, terms + 1)
    total = mpmath.mpf(float(np.sum(np.sort(1 / (k * np.log1p(k) ** 2)))))
    rounding = mpmath.mpf(terms) * mpmath.mpf(2) ** -50  # a generous bound for the sum
    after = mpmath.mpf(terms) + 1
    low = total + _integral(after, 2, 1) + 1 / (2 * after * mpmath.log(after + 1) ** 2)
    high = total + _integral(mpmath.mpf(terms) + 0.5, 1, 3)
    return float(low - rounding), float(high + rounding)


def _integral(start: Any, shift: int, count: int) -> Any:
    """Bound of ∫_start^∞ dx/(x ln²(x + 1)): lower with shift 2, upper with shift 1.

    In the upper bound the terms after ``count`` are together less than the last one.
    """
    level = mpmath.log(start + 1)
    terms = [mpmath.exp(-m * level) / (m * level + shift) for m in range(1, count + 1)]
    return 1 / level + (mpmath.fsum(terms) + (terms[-1] if shift == 1 else 0)) / level


def normaliser(digits: int = 30) -> Any:
    """Z to ``digits`` decimal digits (an mpmath number): 60 terms, then Euler-Maclaurin."""
    with mpmath.workdps(digits + 20):
        n = mpmath.mpf(60)

        def term(x: Any) -> Any:
            return 1 / (x * mpmath.log(x + 1) ** 2)

        level = mpmath.log(n + 1)
        points = [level * m for m in (1, 2, 4, 9, 40)]
        remainder = mpmath.quad(lambda t: 1 / (t * t * mpmath.expm1(t)), points)
        total = mpmath.fsum(term(k) for k in range(1, 60)) + term(n) / 2 + 1 / level + remainder
        derivatives = mpmath.taylor(term, n, 2 * 11)
        for m in range(1, 12):  # the series of B_2m/(2m)! f^(2m-1); taylor divides by (2m-1)!
            total -= mpmath.bernoulli(2 * m) / (2 * m) * derivatives[2 * m - 1]
        return +total


@claim("Table 4, chrono without T_max", CORRECTED, "D has density proportional to 1/(x log^2 x)",
       "P(D = x) = 1/(Z(x-1) ln^2 x) on the integers from 2, Z = 3.38773553...; the printed one is "
       "a continuous analogue with a heavier tail", CERTIFIED)  # fmt: skip
def _check_normaliser() -> Result:
    low, high = normaliser_bracket()
    exact = normaliser()
    steps, z = sympy.symbols("x Z", positive=True)
    of_t = 1 / (z * (steps - 1) * sympy.log(steps) ** 2)  # T = D − 1 in 1/(Z T ln²(T + 1))
    printed = 1 / (steps * sympy.log(steps) ** 2)
    level = 1e7
    exact_tail = 1 / (float(exact) * level)  # P(b > level) ~ 1/(Z·level)
    printed_tail = float(np.log(2)) / level  # D = 2^{1/(1−u)}: P(D > x) = ln 2 / ln x
    quantile = init.chrono_unbounded_quantile(1 - exact_tail)
    first = init.chrono_unbounded_quantile(np.array([0.614, 0.615]))
    return sympy.simplify(of_t / printed).is_constant(steps), [
        (f"{low:.9f} < Z < {high:.9f}", low < float(exact) < high and high - low < 1e-7),
        ("the library's constant is exact to double precision",
         abs(init.CHRONO_NORMALISER - float(exact)) < 1e-15),
        ("P(D = x) = 1/(Z(x-1) ln^2 x), with P(T = 1) = .614384",
         abs(1 / float(exact * mpmath.log(2) ** 2) - 0.614384) < 1e-6
         and first[0] == 0 and first[1] == np.log(2)),
        (f"the printed distribution's tail in b is {printed_tail / exact_tail:.2f} times heavier",
         abs(quantile / level - 1) < 1e-6 and 2.34 < printed_tail / exact_tail < 2.36)]  # fmt: skip


def mean_bias(t_max: float) -> float:
    """Mean of the bias b ~ log U[1, T_max − 1] (equation 17): m ln m/(m − 1) − 1, m = T_max − 1."""
    m = t_max - 1
    return m * np.log(m) / (m - 1) - 1


@claim("Section 3.3, T_max", FALSE, "T_max = 8 and 11 mimic fixed biases of about 1.0 and 2.0",
       "Their mean biases are 1.27 and 1.56")  # fmt: skip
def _check_t_max() -> Result:
    m, b = sympy.symbols("m b", positive=True)
    mean = sympy.integrate(sympy.log(b), (b, 1, m)) / (m - 1)
    nodes = (np.arange(20000) + 0.5) / 20000
    means = [init.chrono_quantile(nodes, t).mean() for t in (8, 11)]
    medians = [init.chrono_quantile(0.5, t) for t in (8, 11)]
    return abs(means[1] - 2) < 0.1, [
        ("E b = m ln m/(m-1) - 1 with m = T_max - 1",
         sympy.simplify(mean - m * sympy.log(m) / (m - 1) + 1) == 0),
        (f"T_max = 8, 11: mean b {means[0]:.2f} and {means[1]:.2f}",
         np.allclose(means, [mean_bias(8), mean_bias(11)], atol=1e-6)),
        ("median b log(T_max/2): 1.39 and 1.70",
         np.allclose(medians, np.log([4, 5.5]), rtol=1e-14))]  # fmt: skip


@claim("B.3, order of the laws", HOLDS, "UGI's timescales lie between those of chrono "
       "initialization, with a much heavier tail, and the sharply decaying standard initialization",
       "P(D > x) is 0 < 1/x < that of chrono without T_max, from x = 7 on; chrono with T_max = d "
       "lies above U throughout")  # fmt: skip
def _check_order() -> Result:
    x = sympy.Symbol("x", positive=True)
    ratio = x / (normaliser(15) * sympy.log(x))  # of chrono's tail ~ 1/(Z ln x) to 1/x
    steps = np.concatenate([np.arange(3.0, 100), np.logspace(2, 7, 50)])
    laws = ("standard", "U", gatecore.mechanism("C", t_max=None))
    fixed, uniform, chrono = (timescale_quantile(law, 2**31 - 1, 1 - 1 / steps) for law in laws)
    shares = np.linspace(0, 1, 99)
    chrono_known, of_u = (timescale_quantile(name, 256, shares) for name in ("C", "U"))
    return True, [
        ("standard: no unit above 3.7; U: a share 1/x above x",
         np.allclose(fixed, 1 + np.exp(1)) and np.allclose(uniform, steps, rtol=1e-2)),
        ("chrono without T_max: a larger share above x = 7, 8, ..., 10^7, a smaller one below",
         np.array_equal(chrono > steps, steps >= 7)),
        ("the ratio of the tails, x/(Z ln x), grows without bound",
         sympy.limit(ratio, x, sympy.oo) == sympy.oo),
        ("T_max = d = 256: above U at every quantile", np.all(chrono_known >= of_u))]  # fmt: skip
