"""What the refine and master gates are: equations (12), (16), (21)-(23), and Proposition 4."""

import ast
from fractions import Fraction
from typing import Any

import numpy as np
import sympy

import gatecore
from gatecore import Gate
from gatecore.analysis._claim import (
    CORRECTED,
    ENUMERATION,
    FALSE,
    HOLDS,
    PRECISION,
    PROOF,
    Finding,
    Proposition,
    consistent,
    finding,
    proved,
    same,
    symbolic_gate,
)

LISTING_2_INITIALIZATION = (
    "u = np.random.uniform(low=1/hidden_size, high=1-1/hidden_size, hidden_size)"
)


def check_refine() -> Finding:
    """The library's `refine` is the paper's, in each of its printed forms."""
    (f, forget), (r, refine) = symbolic_gate("f"), symbolic_gate("r")
    g = gatecore.refine(forget, refine)
    choice = gatecore.mix(refine, gatecore.either(forget, forget), gatecore.both(forget, forget))
    swapped = gatecore.refine(gatecore.negate(forget), gatecore.negate(refine))
    return proved(
        ("(12): r(1-(1-f)^2) + (1-r)f^2", same(g.value, r * (1 - (1 - f) ** 2) + (1 - r) * f**2)),
        ("(16): f + f(1-f)(2r-1)", same(g.value, f + f * (1 - f) * (2 * r - 1))),
        ("D.5: 2rf + (1-2r)f^2", same(g.value, 2 * r * f + (1 - 2 * r) * f**2)),
        ("mix(r, either(f, f), both(f, f))", same(g.value, choice.value) and consistent(choice)),
        ("the two sides sum to 1", consistent(g)),
        ("symmetric under negation", same(swapped.value, g.complement)),
    )


def check_band() -> Finding:
    """Figure 2b: g lies in f ± f(1 − f), and rises with f and with r."""
    (f, forget), (r, refine) = symbolic_gate("f"), symbolic_gate("r")
    g = gatecore.refine(forget, refine).value
    low, high = g.subs(r, 0), g.subs(r, 1)
    nine_tenths = high.subs(f, sympy.Rational(9, 10))
    by_forget = sympy.diff(g, f)
    return proved(
        ("the ends of the band are f^2 and 1-(1-f)^2",
         same(low, f**2) and same(high, 1 - (1 - f) ** 2)),
        ("dg/dr = 2f(1-f) > 0", same(sympy.diff(g, r), 2 * f * (1 - f))),
        ("dg/df = 2(r(1-f) + (1-r)f) > 0", same(by_forget, 2 * (r * (1 - f) + (1 - r) * f))),
        ("f = 0.9 reaches g = 0.99", nine_tenths == sympy.Rational(99, 100)),
    )  # fmt: skip


def check_alpha() -> Finding:
    """Section 2.3: polynomials with Validity, Symmetry and α ≥ 0."""
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
    return finding(
        False,
        ("up to degree 3 they are c f(1-f): degree 3 itself breaks the symmetry",
         same(general / (f * (1 - f)), slope) and solution[c[3]] == 0 and free in c),
        ("Validity at 0 is c <= 1: f(1-f) is the largest of them", same(slope, free) or
         same(slope, -free)),
        ("it is the half width of the library's band",
         same(band / 2, forget.value * forget.complement)),
    )  # fmt: skip


def check_master() -> Finding:
    """The library's `master` is equations (21)–(23)."""
    (big_f, outer_f), (big_i, outer_i) = symbolic_gate("F"), symbolic_gate("I")
    (f, forget), (i, input) = symbolic_gate("f"), symbolic_gate("i")
    omega = big_f * big_i
    forget_out, input_out = gatecore.master(outer_f, outer_i, forget, input)
    return proved(
        ("(21), (22): f w + (F - w), w = F I", same(forget_out.value, f * omega + big_f - omega)),
        ("(23): i w + (I - w)", same(input_out.value, i * omega + big_i - omega)),
        ("the two sides sum to 1", consistent(forget_out) and consistent(input_out)),
    )


def _rescaled(coefficient: Any, master: Any, other: Any, inner: Any) -> Any:
    """Equations (26), (27): inner·ω scaled, plus what the master gate has beyond ω."""
    omega = master * other
    return coefficient * inner * omega + (master - omega)


def check_rescaled_is_refine() -> Finding:
    """Equation (26) is refine(F, f), equation (27) refine(I, i)."""
    (big_f, outer_f), (f, forget), (i, input) = map(symbolic_gate, "Ffi")
    outer_i = gatecore.negate(outer_f)
    return proved(
        ("(26) = refine(F, f)",
         same(_rescaled(2, big_f, 1 - big_f, f), gatecore.refine(outer_f, forget).value)),
        ("(27) = refine(I, i)",
         same(_rescaled(2, 1 - big_f, big_f, i), gatecore.refine(outer_i, input).value)),
    )  # fmt: skip


def check_one_tied_gate() -> Finding:
    """One refine gate with a tied input gate needs f + i = 1 pointwise, not in expectation."""
    (big_f, outer_f), (f, forget), (i, input) = map(symbolic_gate, "Ffi")
    outer_i = gatecore.negate(outer_f)
    effective = gatecore.refine(outer_f, forget)
    effective_input = gatecore.refine(outer_i, input)
    total = effective.value + effective_input.value
    excess = 2 * (f + i - 1) * big_f * (1 - big_f)
    pointwise = same(effective_input.value.subs(i, 1 - f), effective.complement)
    return finding(
        same(effective_input.value, effective.complement),
        ("f^ + i^ = 1 + 2(f+i-1)w", same(total, 1 + excess)),
        ("with f + i = 1 the input gate is the complement of refine(F, f)", pointwise),
        ("f = i = 3/4, F = 1/2 gives 5/4",
         total.subs({f: "3/4", i: "3/4", big_f: "1/2"}) == sympy.Rational(5, 4)),
    )  # fmt: skip


def check_rescaling() -> Finding:
    """2 is the only coefficient that normalises, and only for tied masters."""
    (big_f, _), (big_i, _), (f, forget) = map(symbolic_gate, "FIf")
    s = sympy.Symbol("s")
    omega = big_f * (1 - big_f)
    total = _rescaled(s, big_f, 1 - big_f, f) + _rescaled(s, 1 - big_f, big_f, 1 - f)
    plain = sum(
        gate.value
        for gate in gatecore.master(
            Gate(big_f, 1 - big_f), Gate(1 - big_f, big_f), forget, gatecore.negate(forget)
        )
    )
    untied = _rescaled(2, big_f, big_i, f).subs({big_f: 1, big_i: 1, f: 1})
    return proved(
        ("with f + i = 1 the sum is 1 + (s-2)w", same(total, 1 + (s - 2) * omega)),
        ("s = 1, the library's master gates, leaves 1 - w", same(plain, total.subs(s, 1))),
        ("without tied masters (26) reaches 2", untied == 2),
    )


def check_listings() -> Finding:
    """Listing 2 as printed, and with its output gate's sigmoid beside the library's cell."""
    try:
        ast.parse(LISTING_2_INITIALIZATION)
        runs = True
    except SyntaxError:
        runs = False
    printed, corrected, ours = _listing_2_step(np.random.default_rng(0))
    return finding(
        runs and np.allclose(printed, ours),
        ("its first line is a SyntaxError", not runs),
        (f"o lacks the sigmoid of (14): the output differs by {np.max(abs(printed - ours)):.2f}",
         not np.allclose(printed, ours)),
        ("with the sigmoid it is the library's UR-LSTM step",
         np.allclose(corrected, ours, rtol=1e-12, atol=1e-15)),
    )  # fmt: skip


def _listing_2_step(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(Listing 2's next_hidden, the same with σ(o), the library's), on random weights."""
    size, inputs = 6, 3
    cell = gatecore.cells.LSTM(inputs, size, "UR")
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


def check_parameters() -> Finding:
    """Rows of the packed weights, hence parameters, of each mechanism against the plain LSTM's."""
    plain = gatecore.mechanism("standard").rows("lstm", 192)
    extra = {
        c: Fraction(gatecore.mechanism("OM", downsize=c).rows("lstm", 192), plain) - 1
        for c in (1, 2, 16, 32)
    }
    equal = [
        name for name, row in gatecore.MECHANISMS.items()
        if row.auxiliary != "master" and row.rows("lstm", 192) == plain
    ]  # fmt: skip
    gru = Fraction(gatecore.mechanism("OM", downsize=16).rows("gru", 192),
                   gatecore.mechanism("standard").rows("gru", 192)) - 1  # fmt: skip
    return proved(
        (
            "OM at C = 1, 2, 16, 32: 1/(2C) more",
            all(x == Fraction(1, 2 * c) for c, x in extra.items()),
        ),
        (f"none more: {', '.join(equal)}", len(equal) == 7),
        ("of a GRU it is 2/(3C)", gru == Fraction(2, 48)),
    )


CLAIMS = (
    Proposition(
        "Equations (12), (16), D.5",
        "g = r(1-(1-f)^2) + (1-r)f^2 = f + f(1-f)(2r-1) = 2rf + (1-2r)f^2",
        "So it is, and `refine` computes it",
        PROOF, HOLDS, check_refine,
    ),
    Proposition(
        "Figure 2b, band",
        "The refine gate moves g within f +- f(1-f), so that f = 0.9 reaches 0.99",
        "So it does; g rises with f and with r",
        PROOF, HOLDS, check_band,
    ),
    Proposition(
        "Section 2.3, alpha",
        "The simplest function with Validity, Symmetry and Differentiability is f(1-f)",
        "Of degree 2 each c f(1-f), 0 <= c <= 1, has them, none of degree 3; f(1-f) is the largest",
        PROOF, CORRECTED, check_alpha,
    ),
    Proposition(
        "Equations (21)-(23)",
        "The ON-LSTM's effective gates are f w + (F - w) and i w + (I - w), w = F I",
        "So they are, and `master` computes them",
        PROOF, HOLDS, check_master,
    ),
    Proposition(
        "Proposition 4, each gate",
        "Tied and rescaled by 2, (26) and (27) are refine gates",
        "They are refine(F, f) and refine(I, i)",
        PROOF, HOLDS, check_rescaled_is_refine,
    ),
    Proposition(
        "Proposition 4, one gate",
        "The resulting mechanism is exactly that of the refine gate, if f + i = 1 in expectation",
        "f + i = 1 must hold pointwise: else f^ + i^ = 1 + 2(f+i-1)w is not 1",
        PROOF, CORRECTED, check_one_tied_gate,
    ),
    Proposition(
        "Proposition 4, rescaling",
        "The coefficient 2 on tied master gates makes f^ + i^ equal 1 where f + i does",
        "2 is the only such coefficient; without tied masters f^ could reach 2",
        PROOF, HOLDS, check_rescaling,
    ),
    Proposition(
        "Listings 1 and 2",
        "The listings show the updates (2)-(7) and (9)-(15)",
        "Listing 2's first line is no Python, and both leave out the output gate's sigmoid",
        PRECISION, FALSE, check_listings,
    ),
    Proposition(
        "Section 2.6, parameters",
        "All mechanisms have the LSTM's parameters; master gates add a fraction set by C",
        "The fraction is 1/(2C) of the LSTM's",
        ENUMERATION, HOLDS, check_parameters,
    ),
)  # fmt: skip
