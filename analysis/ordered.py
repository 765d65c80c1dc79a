"""Ordered gates at initialization: Proposition 3 exactly, for any number of master gates."""

import itertools
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import sympy

import gatecore
from gatecore import Gate
from gatecore.analysis._claim import ENUMERATION, FALSE, HOLDS, SAMPLED, Result, claim
from gatecore.analysis._exact import same, symbolic_gate

Floats = np.ndarray
_Z = 3.89  # standard errors of a 99.99 % confidence interval


class ExpectedGates(NamedTuple):
    """Expected gates at initialization, for each master gate (Proposition 3).

    Arrays (n,) of float64 or Fractions: the effective ``forget`` gate f̂ and ``input`` gate î, in
    [0, 1]; their sum ``total``, in [0, 1]; and ω = F·I of the master gates, ``product``, in [0, ¼].
    """

    forget: Floats
    input: Floats
    total: Floats
    product: Floats

    @property
    def means(self) -> "ExpectedGates":
        """The means over the units: scalars of the same type."""
        return ExpectedGates(*(side.sum() / len(side) for side in self))


def expected_gates(n: int, *, inner: float | Fraction = 0.5, exact: bool = False) -> ExpectedGates:
    """Expected effective gates of the ON-LSTM at initialization (Proposition 3).

    The master gates have E F_j = j/n and E I_j = 1 − j/n, exactly so for exchangeable logits; the
    inner gates have E f = ``inner`` and E i = 1 − ``inner``; all are independent. `gatecore.master`
    (equations 21-23) is linear in each of the four, so its expectation is its value at their means.
    ``n`` is the number of master gates, hidden size / C; the sum of the gates does not depend on
    ``inner``. ``exact`` returns Fractions (object arrays) instead of float64. ValueError if n is
    not a positive integer, or ``inner`` is not in [0, 1].

    >>> expected_gates(4).forget
    array([0.15625, 0.375  , 0.65625, 1.     ])
    >>> expected_gates(4, exact=True).means.total
    Fraction(27, 32)
    """
    if n < 1 or int(n) != n:
        raise ValueError(f"n must be a positive integer, got {n}: give hidden_size // downsize")
    if not 0 <= inner <= 1:
        raise ValueError(f"inner must lie in [0, 1], got {inner}: give the mean of a gate")
    n, inner = int(n), Fraction(inner) if exact else float(inner)
    share = np.array([Fraction(k, n) for k in range(n + 1)]) if exact else np.arange(n + 1) / n
    outer, inner_gate = Gate(share[1:], share[-2::-1]), Gate(inner, 1 - inner)
    other = gatecore.negate(outer)
    forget, input = gatecore.master(outer, other, inner_gate, gatecore.negate(inner_gate))
    product = gatecore.both(outer, other).value
    return ExpectedGates(forget.value, input.value, forget.value + input.value, product)


def sample_gates(n: int, scale: float, rng: np.random.Generator,
                 draws: int) -> tuple[Floats, Floats]:  # fmt: skip
    """Samples (draws, n) of the effective forget and input gates, all logits N(0, scale²)."""
    z_forget, z_input, f, i = (scale * rng.standard_normal((draws, n)) for _ in range(4))
    outer = gatecore.cumax(z_forget), gatecore.negate(gatecore.cumax(z_input))
    forget, input = gatecore.master(*outer, gatecore.sigmoid(f), gatecore.sigmoid(i))
    return forget.value, input.value


def cumax_variance(n: int, squares: float) -> Floats:
    """Variance (n,) of each entry of cumax with exchangeable logits; ``squares`` is E Σ p²."""
    share = np.arange(1, n + 1) / n
    return share * (1 - share) * (n * squares - 1) / (n - 1)


# ---- the claims ------------------------------------------------------------------------------


def _sums(n: Any) -> tuple[Any, ...]:
    """Means over the units of E f̂, E î and E ω, summed symbolically for n master gates."""
    j = sympy.Symbol("j", positive=True)
    half = Gate(sympy.Rational(1, 2), sympy.Rational(1, 2))
    outer = Gate(j / n, 1 - j / n)
    gates = gatecore.master(outer, gatecore.negate(outer), half, half)
    terms = (*(gate.value for gate in gates), gatecore.both(outer, gatecore.negate(outer)).value)
    return tuple(sympy.factor(sympy.summation(sympy.expand(t), (j, 1, n)) / n) for t in terms)


def _agrees(n: int) -> bool:
    """Whether `expected_gates` has the symbolic means, as Fractions and as floats."""
    size = sympy.Symbol("n", positive=True)
    forget, input, product = (sum_.subs(size, n) for sum_ in _sums(size))
    means = [Fraction(int(x.p), int(x.q)) for x in (forget, input, forget + input, product)]
    exact, floats = (expected_gates(n, exact=exact).means for exact in (True, False))
    return list(exact) == means and np.allclose(floats, [float(x) for x in means], rtol=1e-13)


@claim("Proposition 3, forget gate", FALSE,
       "At initialization the effective forget gate averages 5/6",
       "Its mean (n+1)(5n+1)/(12n^2) tends to 5/12; the sum of both gates to 5/6")  # fmt: skip
def _check_forget_mean() -> Result:
    n = sympy.Symbol("n", positive=True)
    forget, input, _ = _sums(n)
    symbols, gates = zip(*map(symbolic_gate, "FIfi"), strict=True)
    degrees = [sympy.Poly(sympy.expand(out.value), *symbols).degree(symbol)
               for out in gatecore.master(*gates) for symbol in symbols]  # fmt: skip
    return sympy.limit(forget, n, sympy.oo) == sympy.Rational(5, 6), [
        ("`master` is linear in each gate", max(degrees) <= 1),
        ("mean f^ = (n+1)(5n+1)/(12n^2) -> 5/12",
         same(forget, (n + 1) * (5 * n + 1) / (12 * n**2))),
        ("mean i^ = (n-1)(5n-1)/(12n^2) -> 5/12", same(input, (n - 1) * (5 * n - 1) / (12 * n**2))),
        ("expected_gates has these means at n = 7 and 32", _agrees(7) and _agrees(32))]  # fmt: skip


@claim("Proposition 3, sum", HOLDS, "As derived: the effective forget and input gates sum to about "
       "5/6 in expectation", "The expected sum is exactly (5n^2+1)/(6n^2) with n master gates",
       SAMPLED)  # fmt: skip
def _check_sum() -> Result:
    n = sympy.Symbol("n", positive=True)
    forget, input, product = _sums(n)
    totals = np.add(*sample_gates(16, 2.0, np.random.default_rng(3), 4000)).mean(axis=1)
    mean, bound = totals.mean(), _Z * totals.std() / np.sqrt(len(totals))
    expected = float(expected_gates(16).means.total)
    tilted = [expected_gates(9, inner=p).total for p in (0.5, 0.9)]
    return True, [
        ("exactly (5n^2+1)/(6n^2) -> 5/6",
         same(forget + input, (5 * n**2 + 1) / (6 * n**2))
         and sympy.limit(forget + input, n, sympy.oo) == sympy.Rational(5, 6)),
        ("mean w = (n^2-1)/(6n^2)", same(product, (n**2 - 1) / (6 * n**2))),
        (f"random logits N(0, 4), n = 16: {mean:.4f} +- {bound:.4f} contains {expected:.4f}",
         abs(mean - expected) < bound),
        ("unchanged where E f = p, E i = 1-p", np.allclose(tilted[0], tilted[1], rtol=1e-14)),
    ]  # fmt: skip


@claim("B.4, ordered master gates", HOLDS, "At initialization E F_j = j/n and E I_j = 1 - j/n",
       "These are exact for exchangeable logits", SAMPLED)  # fmt: skip
def _check_cumax_mean() -> Result:
    n = 4
    logits = np.array([sympy.log(sympy.Symbol(f"x{k}", positive=True)) for k in range(n)])
    orders = [gatecore.cumax(np.array(order)) for order in itertools.permutations(logits)]
    means = [sum(gate.value[j] for gate in orders) / len(orders) for j in range(n)]
    softmax = np.diff(orders[0].value, prepend=0)
    squares = sum(p**2 for p in softmax)
    second = sum(gate.value[1] ** 2 for gate in orders) / len(orders)
    half = sympy.Rational(1, 2)
    variance = half**2 * (n * squares - 1) / (n - 1)
    return True, [
        ("the mean over all orders of 4 arbitrary logits is j/4",
         all(same(mean, sympy.Rational(j + 1, n)) for j, mean in enumerate(means))),
        ("the variance is (j/n)(1-j/n)(nq-1)/(n-1), q = sum p^2", same(second - half**2, variance)),
        _sampled_variance(np.random.default_rng(4))]  # fmt: skip


def _sampled_variance(rng: np.random.Generator) -> tuple[str, bool]:
    """Mean and variance for 16 independent normal logits, within Monte Carlo error."""
    draws, n = 20000, 16
    gate = gatecore.cumax(rng.standard_normal((draws, n))).value
    softmax = np.diff(gate, prepend=0, axis=1)
    share = np.arange(1, n + 1) / n
    error = gate.std(axis=0) / np.sqrt(draws)
    mean_agrees = np.all(abs(gate.mean(axis=0) - share) <= _Z * error + 1e-12)
    formula = cumax_variance(n, float((softmax**2).sum(axis=1).mean()))
    variance_agrees = np.allclose(gate.var(axis=0), formula, rtol=0.06, atol=1e-12)
    return "both hold for 20000 draws of 16 normal logits", bool(mean_agrees and variance_agrees)


@claim("Section 2.5, cumax", HOLDS,
       "cumax = cumsum(softmax) is a monotonically increasing vector in [0, 1]",
       "As stated; the complement is the sum of the later entries: 1 - cumax cancels")  # fmt: skip
def _check_cumax() -> Result:
    odds = np.array(sympy.symbols("x0:3", positive=True))
    v = np.array(sympy.symbols("v0:6"))
    logits = np.array([sympy.log(x) for x in odds])
    gate, total = gatecore.cumax(logits), sum(odds)
    doubled = np.repeat(gate.value, 2)
    slopes = [x * sympy.diff(sum(v * doubled), x) for x in odds]  # by the logit of x
    steep = gatecore.cumax(np.array([40.0, 0.0, 0.0]))
    return True, [
        ("(x_0 + ... + x_j)/(x_0 + ... + x_n), x = exp logit: it increases to 1",
         all(same(value * total, sum(odds[: j + 1])) for j, value in enumerate(gate.value))),
        ("the complement is 1 - cumax",
         all(same(value + other, 1) for value, other in zip(*gate, strict=True))),
        ("and exact to 1e-14 for 2 exp(-40)",
         abs(steep.complement[0] / (2 * np.exp(-40)) - 1) < 1e-14),
        ("downsized, neighbours share an entry",
         all(map(same, gatecore.cumax(logits, downsize=2).value, doubled))),
        ("cumax_vjp is its derivative",
         all(map(same, gatecore.cumax_vjp(logits, v, downsize=2), slopes)))]  # fmt: skip


@claim("(19), (28), (34), last unit", HOLDS, "", "The last unit (OM: the last C) has forget gate 1 "
       "and input gate 0: it is never written", ENUMERATION)  # fmt: skip
def _check_dead_units() -> Result:
    logits = 30 * np.random.default_rng(5).standard_normal((50, 8))
    symbols = np.array([sympy.log(sympy.Symbol(f"x{k}", positive=True)) for k in range(3)])
    last = gatecore.cumax(symbols)
    dead = {name: _never_written(gatecore.mechanism(name, **fields), logits)
            for name, fields in {"O": {}, "OR": {}, "OM": {"downsize": 2}}.items()}  # fmt: skip
    return True, [
        ("cumax's last entry is 1 and its complement 0 for any logits",
         same(last.value[-1], 1) and same(last.complement[-1], 0)),
        (f"units never written, of 8: O {dead['O']}, OR {dead['OR']}, OM with C = 2 {dead['OM']}",
         dead == {"O": 1, "OR": 1, "OM": 2})]  # fmt: skip


def _never_written(mechanism: gatecore.Mechanism, logits: Floats) -> int:
    """Units of 8 whose effective gates are exactly (1, 0) for all the logits."""
    slots = mechanism.slots("lstm", 8)
    by_slot = {name: (k + 1) * logits[:, :width] for k, (name, width) in enumerate(slots)}
    forget, input = mechanism.gates(by_slot)
    return int(np.sum(np.all((forget.value == 1) & (input.value == 0), axis=0)))
