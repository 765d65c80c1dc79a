"""Refine and master gates: equations (12), (16), (21)-(23), Proposition 4, and the listings."""

import ast
from fractions import Fraction
from typing import Any

import numpy as np
import sympy

import gatecore
from gatecore import Gate
from gatecore.analysis._claim import CORRECTED, ENUMERATION, FALSE, HOLDS, PRECISION, Result, claim
from gatecore.analysis._exact import same, sums_to_one, symbolic_gate

LISTING_2_INITIALIZATION = ("u = np.random.uniform(low=1/hidden_size, "
                            "high=1-1/hidden_size, hidden_size)")  # fmt: skip


@claim("Equations (12), (16), D.5", HOLDS, "g = r(1-(1-f)^2) + (1-r)f^2 = f + f(1-f)(2r-1) = 2rf + "
       "(1-2r)f^2", "As stated, and `refine` computes it")  # fmt: skip
def _check_refine() -> Result:
    (f, forget), (r, refine) = symbolic_gate("f"), symbolic_gate("r")
    g = gatecore.refine(forget, refine)
    mixed = gatecore.mix(refine, gatecore.either(forget, forget), gatecore.both(forget, forget))
    negated = gatecore.refine(gatecore.negate(forget), gatecore.negate(refine))
    return True, [
        ("(12): r(1-(1-f)^2) + (1-r)f^2", same(g.value, r * (1 - (1 - f) ** 2) + (1 - r) * f**2)),
        ("(16): f + f(1-f)(2r-1)", same(g.value, f + f * (1 - f) * (2 * r - 1))),
        ("D.5: 2rf + (1-2r)f^2", same(g.value, 2 * r * f + (1 - 2 * r) * f**2)),
        ("mix(r, either(f, f), both(f, f))", same(g.value, mixed.value) and sums_to_one(mixed)),
        ("the two sides sum to 1", sums_to_one(g)),
        ("symmetric under negation", same(negated.value, g.complement))]  # fmt: skip


@claim("Figure 2b, band", HOLDS, "The refine gate moves g within f +- f(1-f), so that f = 0.9 "
       "reaches 0.99", "As stated; g increases with f and with r")  # fmt: skip
def _check_band() -> Result:
    (f, forget), (r, refine) = symbolic_gate("f"), symbolic_gate("r")
    g = gatecore.refine(forget, refine).value
    low, high = g.subs(r, 0), g.subs(r, 1)
    return True, [
        ("the ends of the band are f^2 and 1-(1-f)^2",
         same(low, f**2) and same(high, 1 - (1 - f) ** 2)),
        ("dg/dr = 2f(1-f) > 0", same(sympy.diff(g, r), 2 * f * (1 - f))),
        ("dg/df = 2(r(1-f) + (1-r)f) > 0", same(sympy.diff(g, f), 2 * (r * (1 - f) + (1 - r) * f))),
        ("f = 0.9 reaches g = 0.99", high.subs(f, "9/10") == sympy.Rational(99, 100))]  # fmt: skip


@claim("Section 2.3, alpha", CORRECTED,
       "The simplest function with Validity, Symmetry and Differentiability is f(1-f)",
       "Each c f(1-f), 0 <= c <= 1, has them, and no cubic; f(1-f) is the largest")  # fmt: skip
def _check_alpha() -> Result:
    f = sympy.Symbol("f")
    c = sympy.symbols("c0:4")
    cubic = sum(c[k] * f**k for k in range(4))
    conditions = [cubic.subs(f, 0), *sympy.Poly(cubic - cubic.subs(f, 1 - f), f).coeffs()]
    (solution,) = sympy.solve(conditions, c, dict=True)
    general = sympy.factor(cubic.subs(solution))
    (free,) = general.free_symbols - {f}
    slope = sympy.diff(general, f).subs(f, 0)
    _, forget = symbolic_gate("f")
    band = gatecore.refine(forget, Gate(1, 0)).value - gatecore.refine(forget, Gate(0, 1)).value
    return False, [("up to degree 3 they are c f(1-f): degree 3 itself breaks the symmetry",
                    same(general / (f * (1 - f)), slope) and solution[c[3]] == 0 and free in c),
                   ("Validity at 0 is c <= 1: f(1-f) is the largest of them",
                    same(slope, free) or same(slope, -free)),
                   ("it is the half width of the library's band",
                    same(band / 2, forget.value * forget.complement))]  # fmt: skip


@claim("Equations (21)-(23)", HOLDS, "The ON-LSTM's effective gates are f w + (F - w) and i w + (I "
       "- w), w = F I", "As stated, and `master` computes them")  # fmt: skip
def _check_master() -> Result:
    (big_f, outer_f), (big_i, outer_i) = symbolic_gate("F"), symbolic_gate("I")
    (f, forget), (i, input) = symbolic_gate("f"), symbolic_gate("i")
    omega, cotangents = big_f * big_i, sympy.symbols("a b")
    forget_out, input_out = gatecore.master(outer_f, outer_i, forget, input)
    total = forget_out.value * cotangents[0] + input_out.value * cotangents[1]
    slopes = gatecore.master_vjp(outer_f, outer_i, forget, input, *cotangents)
    exact = [sympy.diff(total, gate) for gate in (big_f, big_i, f, i)]
    return True, [
        ("(21), (22): f w + (F - w), w = F I", same(forget_out.value, f * omega + big_f - omega)),
        ("(23): i w + (I - w)", same(input_out.value, i * omega + big_i - omega)),
        ("the two sides sum to 1", sums_to_one(forget_out) and sums_to_one(input_out)),
        ("master_vjp is their derivative", all(map(same, slopes, exact)))]  # fmt: skip


def _rescaled(coefficient: Any, master: Any, other: Any, inner: Any) -> Any:
    """Equations (26), (27): the scaled inner·ω, plus the rest of the master gate, master − ω."""
    omega = master * other
    return coefficient * inner * omega + (master - omega)


@claim("Proposition 4, each gate", HOLDS, "Tied and rescaled by 2, (26) and (27) are refine gates",
       "They are refine(F, f) and refine(I, i)")  # fmt: skip
def _check_rescaled_is_refine() -> Result:
    (big_f, outer_f), (f, forget), (i, input) = map(symbolic_gate, "Ffi")
    outer_i = gatecore.negate(outer_f)
    return True, [
        ("(26) = refine(F, f)",
         same(_rescaled(2, big_f, 1 - big_f, f), gatecore.refine(outer_f, forget).value)),
        ("(27) = refine(I, i)",
         same(_rescaled(2, 1 - big_f, big_f, i), gatecore.refine(outer_i, input).value)),
    ]  # fmt: skip


@claim("Proposition 4, one gate", CORRECTED,
       "The resulting mechanism is exactly that of the refine gate, if f + i = 1 in expectation",
       "f + i = 1 must hold pointwise: else f^ + i^ = 1 + 2(f+i-1)w is not 1")  # fmt: skip
def _check_one_tied_gate() -> Result:
    (big_f, outer_f), (f, forget), (i, input) = map(symbolic_gate, "Ffi")
    outer_i = gatecore.negate(outer_f)
    effective, effective_input = gatecore.refine(outer_f, forget), gatecore.refine(outer_i, input)
    total = effective.value + effective_input.value
    excess = 2 * (f + i - 1) * big_f * (1 - big_f)
    pointwise = same(effective_input.value.subs(i, 1 - f), effective.complement)
    return same(effective_input.value, effective.complement), [
        ("f^ + i^ = 1 + 2(f+i-1)w", same(total, 1 + excess)),
        ("with f + i = 1 the input gate is the complement of refine(F, f)", pointwise),
        ("f = i = 3/4, F = 1/2 gives 5/4",
         total.subs({f: "3/4", i: "3/4", big_f: "1/2"}) == sympy.Rational(5, 4))]  # fmt: skip


@claim("Proposition 4, rescaling", HOLDS,
       "The coefficient 2 on tied master gates makes f^ + i^ equal 1 where f + i does",
       "2 is the only such coefficient; without tied master gates f^ can reach 2")  # fmt: skip
def _check_rescaling() -> Result:
    (big_f, outer), (big_i, _), (f, forget) = map(symbolic_gate, "FIf")
    s = sympy.Symbol("s")
    omega = big_f * (1 - big_f)
    total = _rescaled(s, big_f, 1 - big_f, f) + _rescaled(s, 1 - big_f, big_f, 1 - f)
    gates = gatecore.master(outer, gatecore.negate(outer), forget, gatecore.negate(forget))
    plain = gates[0].value + gates[1].value
    untied = _rescaled(2, big_f, big_i, f).subs({big_f: 1, big_i: 1, f: 1})
    return True, [
        ("with f + i = 1 the sum is 1 + (s-2)w", same(total, 1 + (s - 2) * omega)),
        ("s = 1, the library's master gates, leaves 1 - w", same(plain, total.subs(s, 1))),
        ("without tied master gates (26) reaches 2", untied == 2)]  # fmt: skip


@claim("Listings 1 and 2", FALSE, "The listings show the updates (2)-(7) and (9)-(15)",
       "Listing 2's first line is not valid Python, and both omit the output gate's sigmoid",
       PRECISION)  # fmt: skip
def _check_listings() -> Result:
    try:
        valid = bool(ast.parse(LISTING_2_INITIALIZATION))
    except SyntaxError:
        valid = False
    printed, corrected, library = _listing_2_step(np.random.default_rng(0))
    return valid and np.allclose(printed, library), [
        ("its first line is a SyntaxError", not valid),
        (f"o lacks the sigmoid of (14): the output differs by {np.max(abs(printed - library)):.2f}",
         not np.allclose(printed, library)),
        ("with the sigmoid it is the library's UR-LSTM step",
         np.allclose(corrected, library, rtol=1e-12, atol=1e-15))]  # fmt: skip


def _listing_2_step(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Listing 2's next_hidden, the same with σ(o), the library's output), on random weights."""
    size, inputs = 6, 3
    cell = gatecore.cells.LSTM(inputs, size, gatecore.mechanism("UR", refine_bias="opposed"))
    params = cell.init(rng)
    x, hidden, prev_cell = (rng.normal(size=(1, n)) for n in (inputs, size, size))
    linear = x @ params["weight_ih"].T + hidden @ params["weight_hh"].T
    r, f, u, o = np.split(linear, 4, axis=-1)  # the library's packed order
    forget_bias = np.split(params["bias"], 4)[1]
    f_ = 1 / (1 + np.exp(-(f + forget_bias)))
    r_ = 1 / (1 + np.exp(-(r - forget_bias)))
    g = 2 * r_ * f_ + (1 - 2 * r_) * f_**2
    next_cell = g * prev_cell + (1 - g) * np.tanh(u)
    output, _ = cell.step(params, x, (hidden, prev_cell))
    return o * np.tanh(next_cell), np.tanh(next_cell) / (1 + np.exp(-o)), output


@claim("Section 2.6, parameters", HOLDS,
       "All mechanisms have the LSTM's parameters; master gates add a fraction set by C",
       "The fraction is 1/(2C) of the LSTM's parameters", ENUMERATION)  # fmt: skip
def _check_parameters() -> Result:
    plain = gatecore.mechanism("standard").rows("lstm", 192)
    extra = {c: Fraction(gatecore.mechanism("OM", downsize=c).rows("lstm", 192), plain) - 1
             for c in (1, 2, 16, 32)}  # fmt: skip
    equal = [name for name, one in gatecore.MECHANISMS.items()
             if one.auxiliary != "master" and one.rows("lstm", 192) == plain]  # fmt: skip
    return True, [("OM at C = 1, 2, 16, 32: 1/(2C) more",
                   all(x == Fraction(1, 2 * c) for c, x in extra.items())),
                  (f"no more: {', '.join(equal)}", len(equal) == 7)]  # fmt: skip


@claim("Section 2.4, parameters of a GRU", CORRECTED, "A refine gate keeps the number of "
       "parameters, since the input gate is tied", "In the LSTM; a GRU, whose gates are tied, has "
       "a third more, and 2/(3C) with master gates", ENUMERATION)  # fmt: skip
def _check_gru_parameters() -> Result:
    def rows(name: str, core: str = "gru", **fields: int) -> int:
        return gatecore.mechanism(name, **fields).rows(core, 192)

    extra = {name: Fraction(rows(name), rows("standard")) - 1 for name in ("R", "UR", "OR", "U")}
    masters = Fraction(rows("OM", downsize=16), rows("standard")) - 1
    size = gatecore.cells.GRU(5, 192, "UR").parameter_shapes()
    return set(extra.values()) == {0}, [
        ("the LSTM keeps them", rows("UR", "lstm") == rows("standard", "lstm")),
        ("a GRU's projections are 3, with a refine gate 4",
         rows("standard") == 3 * 192 and extra == dict.fromkeys(("R", "UR", "OR"), Fraction(1, 3))
         | {"U": 0} and size["weight_ih"] == (4 * 192, 5)),
        ("OM at C = 16: 2/(3C) more", masters == Fraction(2, 48))]  # fmt: skip
