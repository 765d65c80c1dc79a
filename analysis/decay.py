"""Timescales: Propositions 1 and 2, Table 4, Footnote 2, and time warps (Appendix B.4)."""

from typing import Any

import mpmath
import numpy as np
import sympy
from scipy import stats

import gatecore
from gatecore import Gate, init
from gatecore.analysis._claim import CORRECTED, HOLDS, PRECISION, SAMPLED, Result, claim
from gatecore.analysis._exact import same, symbolic_gate
from gatecore.analysis.timescales import sample_timescales, timescale_quantile

_U, _X, _D = sympy.symbols("u x d", positive=True)


@claim("Proposition 1", CORRECTED,
       "With uniform gates D has density x^-2, a Pareto(alpha = 2) distribution",
       "The density is correct; it is Pareto of shape 1 (2 is the density's exponent)")  # fmt: skip
def _check_pareto() -> Result:
    steps = gatecore.timescale(Gate(_U, 1 - _U))
    (below,) = sympy.solve(sympy.Eq(steps, _X), _U)  # P(D <= x) = P(f <= this)
    density = sympy.diff(below, _X)
    x = np.linspace(1.001, 50, 50)
    values = sympy.lambdify(_X, density)(x)
    return np.allclose(values, stats.pareto(b=2).pdf(x)), [
        ("P(D <= x) = 1 - 1/x, density x^-2", same(below, 1 - 1 / _X) and same(density, _X**-2)),
        ("it integrates to 1 over [1, oo)", sympy.integrate(density, (_X, 1, sympy.oo)) == 1),
        ("Pareto of shape 1 (scipy: b = 1), since shape 2 has density 2x^-3",
         np.allclose(values, stats.pareto(b=1).pdf(x)))]  # fmt: skip


@claim("Proposition 1, truncated", HOLDS, "Sampling U[1/d, 1-1/d] is justified: the extremes of d "
       "draws are 1/(d+1) and 1-1/(d+1)", "The extremes are these; D then lies in [d/(d-1), d] "
       "with mean d ln(d-1)/(d-2) and median 2", SAMPLED)  # fmt: skip
def _check_truncated() -> Result:
    gate = 1 / _D + _U * (1 - 2 / _D)
    steps = sympy.cancel(gatecore.timescale(Gate(gate, 1 - gate)))
    (below,) = sympy.solve(sympy.Eq(steps, _X), _U)
    density = sympy.diff(below, _X)
    mean = sympy.integrate(_X * density, (_X, _D / (_D - 1), _D))
    square = sympy.integrate(_X**2 * density, (_X, _D / (_D - 1), _D))
    order = sympy.Symbol("n", positive=True)
    smallest = sympy.integrate(sympy.powsimp(_U * order * (1 - _U) ** (order - 1)), (_U, 0, 1))
    sample = sample_timescales("U", 64, np.random.default_rng(1), 64 * 400)
    return True, [
        ("P(D <= x) = (1 - 1/d - 1/x) d/(d-2) on [d/(d-1), d]",
         same(below, (1 - 1 / _D - 1 / _X) * _D / (_D - 2))),
        ("E D = d ln(d-1)/(d-2), E D^2 = d^2/(d-1), median 2",
         all(abs(sympy.N(mean.subs(_D, k) - k * sympy.log(k - 1) / (k - 2))) < 1e-12
             for k in (3, 9))
         and same(square, _D**2 / (_D - 1)) and steps.subs(_U, sympy.Rational(1, 2)) == 2),
        ("the smallest of d uniform numbers has expectation 1/(d+1)",
         sympy.simplify(sympy.gammasimp(smallest) - 1 / (order + 1)) == 0),
        ("init.uniform_quantile has this distribution to 1e-12 in D",
         _uniform_quantile_error() < 1e-12),
        _ks_fact(sample, lambda x: (1 - 1 / 64 - 1 / x) * 64 / 62)]  # fmt: skip


def _uniform_quantile_error() -> float:
    """Largest relative error of timescales through the library's bias and sigmoid."""
    u = np.concatenate([np.linspace(0, 1, 41), np.logspace(-12, -2, 11)])
    worst = 0.0
    for d in (3, 64, 10**6):
        timescales = gatecore.timescale(gatecore.sigmoid(init.uniform_quantile(u, d)))
        for x, steps in zip(u, timescales, strict=True):
            with mpmath.workdps(40):
                gate = mpmath.mpf(1) / d + mpmath.mpf(float(x)) * (1 - mpmath.mpf(2) / d)
                worst = max(worst, float(abs(steps * (1 - gate) - 1)))
    return worst


def _ks_fact(sample: np.ndarray, cdf: Any) -> tuple[str, bool]:
    """Kolmogorov-Smirnov test of a sample against a distribution, at the level 1e-4."""
    distance = stats.kstest(sample, cdf).statistic
    limit = 2.225 / np.sqrt(len(sample))
    return f"{len(sample)} draws: distance {distance:.4f} < {limit:.4f}", bool(distance < limit)


@claim("Proposition 2", CORRECTED, "The refine gate makes of D a timescale in (D/2, D^2)",
       "The sharp interval is (D^2/(2D-1), D^2); its lower end has the asymptote D/2")  # fmt: skip
def _check_refined_range() -> Result:
    r, refine = symbolic_gate("r")
    forget = Gate(1 - 1 / _D, 1 / _D)
    steps = sympy.cancel(gatecore.timescale(gatecore.refine(forget, refine)))
    low, high = (sympy.cancel(steps.subs(r, end)) for end in (0, 1))
    slope = sympy.diff(steps, r)
    positive = 2 * (_D - 1) * (steps / _D) ** 2  # where D > 1
    return same(low, _D / 2), [
        ("D_g = D^2/(2D-1-2r(D-1))", same(steps, _D**2 / (2 * _D - 1 - 2 * r * (_D - 1)))),
        ("it increases with r", same(slope, positive)),
        ("its ends are D^2/(2D-1) and D^2, so the range is sharp",
         same(low, _D**2 / (2 * _D - 1)) and same(high, _D**2)),
        ("D^2/(2D-1) - D/2 = D/(4D-2) > 0: D/2 is never reached",
         same(low - _D / 2, _D / (4 * _D - 2)))]  # fmt: skip


@claim("Table 4, constant bias", HOLDS,
       "All units start at D = 1 + exp b, 3.7 steps for b = 1", "As stated")  # fmt: skip
def _check_constant() -> Result:
    weight = sympy.Symbol("w", positive=True)
    steps = gatecore.timescale(gatecore.sigmoid(sympy.log(weight)))
    units = sample_timescales("standard", 32, 0, 32)
    return True, [("D = 1 + exp b", same(sympy.simplify(steps), 1 + weight)),
                  (f"b = 1: all units at {units[0]:.4f}",
                   np.allclose(units, 1 + np.exp(1), rtol=1e-14))]  # fmt: skip


@claim("Table 4, chrono with T_max", HOLDS,
       "D is uniform in [2, T_max]", "As stated", SAMPLED)  # fmt: skip
def _check_chrono_known() -> Result:
    span = sympy.Symbol("T", positive=True)
    steps = gatecore.timescale(gatecore.sigmoid(sympy.log(1 + _U * (span - 2))))
    u = np.linspace(0, 1, 33)
    mechanism = gatecore.mechanism("C", t_max=784)
    quantiles = timescale_quantile(mechanism, 512, u)
    sample = sample_timescales(mechanism, 100, 2, 10**4)
    return True, [
        ("D = 2 + u (T_max - 2)", same(sympy.simplify(steps), 2 + _U * (span - 2))),
        ("init.chrono_quantile gives it to 1e-12", np.allclose(quantiles, 2 + u * 782, rtol=1e-12)),
        _ks_fact(sample, lambda x: (x - 2) / 782)]  # fmt: skip


@claim("Table 4, uniform gates", HOLDS,
       "D has density proportional to x^-2", "As stated: the survival function is 1/x")  # fmt: skip
def _check_uniform_row() -> Result:
    return True, _check_pareto.check()[1]


@claim("Table 4, cumax", CORRECTED, "D has density proportional to x^-2", "D = n/(n-j): that "
       "distribution in the limit of many units, and one unit at infinity", PRECISION)  # fmt: skip
def _check_cumax_row() -> Result:
    n = 64
    steps = gatecore.timescale(gatecore.cumax(np.zeros(n)))
    finite = np.sort(steps)[:-1]
    below = np.arange(1, n) / n
    quantiles = timescale_quantile("O", n, np.arange(1, n + 1) / n)
    return np.all(np.isfinite(steps)), [
        ("D_j = n/(n-j): P(D <= x) = floor(n(1-1/x))/n, within 1/n of the distribution of x^-2",
         np.allclose(below, 1 - 1 / finite, rtol=1e-12)),
        ("one unit of n at D = oo", np.isinf(steps[-1])),
        ("timescale_quantile has these steps", np.allclose(quantiles, steps, rtol=1e-12)),
    ]  # fmt: skip


@claim("Footnote 2", CORRECTED, "1/(1-f) is the number of steps to decay by 1/e",
       "To decay to 1/e takes -1/ln f = D - 1/2 - 1/(12D) - ... steps")  # fmt: skip
def _check_footnote() -> Result:
    gate = Gate(1 - 1 / _D, 1 / _D)
    exact = -1 / sympy.log(gate.value)
    small = sympy.Symbol("t", positive=True)
    # -1/ln(1 − t) = 1/t − ½ − t/12 − …, by the product with ln's own series
    guess = 1 / small - sympy.Rational(1, 2) - small / 12
    log_series = -sum(small**k / k for k in range(1, 6))
    rest = sympy.expand(guess * log_series + 1)
    steps = float(exact.subs(_D, 100))
    return abs(steps - 100) < 1e-9, [
        ("f^t = 1/e at t = -1/ln f = D - 1/2 - 1/(12D) - ...",
         all(power >= 3 for (power,) in sympy.Poly(rest, small).monoms())),
        (f"D = 100: {steps:.3f} steps", abs(steps - (100 - 0.5 - 1 / 1200)) < 1e-4),
        ("it decays to 1/e, not by 1/e", same(gate.value**exact, sympy.exp(-1))),
        ("`timescale` is 1/(1-f)", same(gatecore.timescale(gate), _D))]  # fmt: skip


@claim("B.4, time warps", HOLDS,
       "The tied update is the discretization of an equation that is invariant to time warpings",
       "It is exact with f = exp(-1/tau); D = tau + 1/2 + 1/(12 tau) + ...")  # fmt: skip
def _check_time_warp() -> Result:
    state, tau, t, target = sympy.symbols("h tau t v", positive=True)
    forget = Gate(sympy.exp(-t / tau), 1 - sympy.exp(-t / tau))
    solution = gatecore.cells.update(state, target, forget)
    equation = sympy.simplify(sympy.diff(solution, t) - (target - solution) / tau)
    small = sympy.Symbol("s", positive=True)
    steps = gatecore.timescale(forget).subs(t / tau, small).subs(t, small * tau)
    series = sympy.series(sympy.simplify(steps), small, 0, 2).removeO()
    warped, exact = _warped_state()
    return True, [
        ("c f + (1-f) u with f = exp(-1/tau) solves it exactly, 1 - 1/tau is the Euler step",
         equation == 0 and same(solution.subs(t, 0), state)),
        ("D = tau + 1/2 + 1/(12 tau) + ...",
         same(series, 1 / small + sympy.Rational(1, 2) + small / 12)),
        ("any gates in (0, 1) are a time warp by steps -ln f, and the library's cell follows it",
         abs(warped / exact - 1) < 1e-12)]  # fmt: skip


def _warped_state() -> tuple[float, float]:
    """State of a Minimal cell after 40 steps of random gates and u = 0; and exp(−elapsed time)."""
    cell = gatecore.cells.Minimal(1, 1, "standard")
    params = {name: np.zeros_like(value) for name, value in cell.init(0).items()}
    logits = np.random.default_rng(6).normal(2, 1, 40)
    params["weight_ih"][0] = 1
    state, elapsed = np.ones((1, 1)), 0.0
    for logit in logits:
        _, state = cell.step(params, np.full((1, 1), logit), state)
        elapsed -= np.log(gatecore.sigmoid(logit).value)
    return float(np.ravel(state)[0]), float(np.exp(-elapsed))
