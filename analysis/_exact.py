"""Exact arithmetic: identities of gates; and Bernstein coefficients, root isolation, series.

The arguments are expressions computed by the library; no formula of it is repeated.
"""

from math import comb
from typing import Any

import mpmath
import sympy

from gatecore import Gate

WIDTH = sympy.Rational(1, 10**80)


def symbolic_gate(name: str) -> tuple[sympy.Symbol, Gate]:
    """A symbol in (0, 1) and the gate of that value."""
    symbol = sympy.Symbol(name, positive=True)
    return symbol, Gate(symbol, 1 - symbol)


def same(left: Any, right: Any) -> bool:
    """Whether two rational expressions are identical, decided exactly."""
    return sympy.cancel(sympy.together(sympy.sympify(left) - sympy.sympify(right))) == 0


def sums_to_one(gate: Gate) -> bool:
    """Whether value and complement of a gate of rational expressions sum to 1 identically."""
    return same(gate.value + gate.complement, 1)


def bernstein(polynomial: sympy.Poly, edge: Any) -> list[Any]:
    """Exact Bernstein coefficients of a polynomial of two symbols on [0, edge] × [0, 1].

    The polynomial is a convex combination of them at every point: if none is negative, neither is
    the polynomial.
    """
    n, m = (polynomial.degree(symbol) for symbol in polynomial.gens)
    scaled = {(i, j): c * sympy.expand(edge**i) for (i, j), c in polynomial.terms()}
    return [sympy.expand(sum(c * sympy.Rational(comb(k, i) * comb(q, j), comb(n, i) * comb(m, j))
                             for (i, j), c in scaled.items() if i <= k and j <= q))
            for k in range(n + 1) for q in range(m + 1)]  # fmt: skip


def upper_bound(square_on_level: Any, s: Any, a: Any) -> tuple[list[Any], bool]:
    """Bernstein coefficients that prove ‖∇g‖ ≤ M = 2s²(1 − s) if none is negative.

    ``square_on_level`` is ‖∇g‖² where g = 1 − s² ≥ ½ and f = 1 − a. It equals M² at a = s, so
    M² − ‖∇g‖² = (s − a)·P. With s = 2w/(1 + w²), 0 < w ≤ √2 − 1, and a = a0 + λ(s − a0) between
    its ends 1 − √g and s, P is w⁵(1 − w)⁵ times a polynomial in (w, λ), over a positive
    denominator. The second result is True if both divisions are exact and the denominator is
    positive.
    """
    w, part = sympy.symbols("w lambda", positive=True)
    difference = sympy.together((2 * s**2 * (1 - s)) ** 2 - square_on_level)
    quotient, remainder = sympy.Poly(sympy.numer(difference), s, a).div(sympy.Poly(s - a, s, a))
    circle = {s: 2 * w / (1 + w**2), a: 2 * w * (w + part * (1 - w)) / (1 + w**2)}
    numerator, denominator = sympy.fraction(sympy.cancel(quotient.as_expr().subs(circle)))
    positive = _is_product(sympy.denom(difference), (a, 1 - a))
    positive = positive and _is_product(denominator, (1 + w**2,))
    polynomial, rest = sympy.Poly(numerator, w, part).div(sympy.Poly(w**5 * (1 - w) ** 5, w, part))
    exact = remainder.is_zero and rest.is_zero and positive
    return bernstein(polynomial, sympy.sqrt(2) - 1), exact


def _is_product(expression: Any, positive: tuple[Any, ...]) -> bool:
    """Whether an expression is a positive number times powers of positive factors."""
    constant, factors = sympy.factor_list(expression)
    for factor, power in factors:
        if factor in positive:
            continue
        if -factor not in [sympy.expand(p) for p in positive]:
            return False
        constant *= (-1) ** power
    return bool(constant > 0)


def least_value(function: Any, variable: Any, feasible: Any) -> tuple[Any, Any]:
    """Certified bracket of the smallest value of a rational function at its stationary points.

    The roots of the derivative's numerator are isolated in exact arithmetic, each to 1e-80, and the
    function is evaluated on these intervals in interval arithmetic. NaN if there is none.
    ``feasible`` says whether a rational number belongs to the domain.
    """
    slope = sympy.Poly(sympy.numer(sympy.together(sympy.diff(function, variable))), variable)
    mpmath.iv.dps = 120
    value = sympy.lambdify(variable, function, modules=mpmath.iv)
    brackets = [value(mpmath.iv.mpf([_interval(low), _interval(high)]))
                for (low, high), _ in slope.intervals(eps=WIDTH)
                if feasible(low) and feasible(high)]  # fmt: skip
    if not brackets:
        return mpmath.mpf("nan"), mpmath.mpf("nan")
    return min(b.a for b in brackets), min(b.b for b in brackets)


def _interval(rational: Any) -> Any:
    return mpmath.iv.mpf(int(rational.p)) / int(rational.q)


def least_series_is(expected: Any, square: Any, t: Any, e: Any) -> bool:
    """Whether the smallest ratio is ``expected`` up to e³, from the ratio's square R²(t, e).

    The minimiser is t = ½ at e = 0. An error δ of the minimiser changes the minimum by δ², so a
    minimiser exact to first order in e gives the minimum to third order.
    """
    first = sympy.Symbol("c")
    slope = sympy.diff(square, t).subs(t, sympy.Rational(1, 2) + first * e)
    (coefficient,) = sympy.solve(sympy.diff(slope, e).subs(e, 0), first)
    minimum = sympy.cancel(square.subs(t, sympy.Rational(1, 2) + coefficient * e))
    numerator, denominator = sympy.fraction(minimum)
    error = sympy.Poly(numerator - expected**2 * denominator, e)
    return bool(denominator.subs(e, 0)) and all(power > 3 for (power,) in error.monoms())
