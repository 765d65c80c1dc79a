"""Every claim gets the expected verdict, and does not get it with a wrong formula."""

import dataclasses

import numpy as np
import pytest

import gatecore
from gatecore import Gate
from gatecore.analysis import chrono, claims, equivalence, gradients, initial, permutation
from gatecore.analysis._claim import CORRECTED, FALSE, HOLDS, OPEN, Proposition

PROPOSITIONS = {proposition.name: proposition for proposition in claims.propositions()}

EXPECTED = {
    "Proposition 1": CORRECTED,
    "Proposition 1, truncated": HOLDS,
    "Proposition 2": CORRECTED,
    "Proposition 3, forget gate": FALSE,
    "Proposition 3, sum": HOLDS,
    "Proposition 4, each gate": HOLDS,
    "Proposition 4, one gate": CORRECTED,
    "Proposition 4, rescaling": HOLDS,
    "Appendix C, norm": CORRECTED,
    "Figure 2d, upper bound": HOLDS,
    "Figure 2d, lower bound": HOLDS,
    "Section 2.3, alpha": CORRECTED,
    "Section 2.3, saturation": CORRECTED,
    "Listing 2, initial law": FALSE,
    "Listings 1 and 2": FALSE,
    "Table 4, constant bias": HOLDS,
    "Table 4, chrono with T_max": HOLDS,
    "Table 4, chrono without T_max": CORRECTED,
    "Table 4, uniform gates": HOLDS,
    "Table 4, cumax": CORRECTED,
    "Section 3.3, T_max": FALSE,
    "Footnote 2": CORRECTED,
    "D.5, bit reversal": CORRECTED,
    "(19), (28), (34), last unit": FALSE,
}


@pytest.fixture(scope="module")
def verified():
    return {claim.name: claim for claim in claims.verify()}


def test_every_verdict_is_the_expected_one(verified):
    assert [claim.evidence for claim in verified.values() if not claim.ok] == []
    assert {name: verified[name].verdict for name in EXPECTED} == EXPECTED


def test_every_claim_has_evidence_truth_and_method(verified):
    for claim in verified.values():
        assert all(isinstance(text, str) and text for text in dataclasses.astuple(claim)[:4])
        assert claim.truth
        assert claim.method


def test_names_are_unique():
    assert len(PROPOSITIONS) == len(claims.propositions())


# ---- wrong formulas --------------------------------------------------------------------------


def weaker_refine(forget, refine):
    """The band f ± f(1 − f)/2, from a coefficient 1 instead of 2."""
    f, r = forget, refine
    value = f.value * (f.value + f.complement / 2 + r.value * f.complement)
    return Gate(value, 1 - value)


def subtracted_refine(forget, refine):
    """Correct as algebra; in floating point the complement cancels."""
    value = forget.value * (forget.value + 2 * refine.value * forget.complement)
    return Gate(value, 1 - value)


def swapped_refine(forget, refine):
    return gatecore.mix(refine, gatecore.both(forget, forget), gatecore.either(forget, forget))


def shorter_timescale(gate):
    with np.errstate(divide="ignore"):
        return 1 / gate.complement - 0.5


def product_master(master_forget, master_input, forget, input):
    """Equations (21)–(23) with the product of the master gates alone."""
    overlap = gatecore.both(master_forget, master_input)
    return gatecore.both(overlap, forget), gatecore.both(overlap, input)


def reversed_cumax(logit, axis=-1, downsize=1):
    """The sum after each entry instead of the sum up to it."""
    return gatecore.negate(CUMAX(logit, axis, downsize))


def doubled_sigmoid(logit):
    """A sigmoid of twice the logit."""
    return SIGMOID(2 * logit)


def imprecise_update(state, candidate, forget, input=None):
    return forget.value * state + (1 - forget.value) * candidate


def wrong_rows(mechanism, core, hidden_size):
    return 5 * hidden_size if mechanism.auxiliary == "master" else 4 * hidden_size


def doubled_step(cell, params, x, state):
    output, state = STEP(cell, params, x, state)
    return 2 * output, state


SIGMOID, STEP, CUMAX = gatecore.sigmoid, gatecore.cells.LSTM.step, gatecore.cumax
UNIFORM, CHRONO = gatecore.init.uniform_quantile, gatecore.init.chrono_quantile
WRONG = [
    *((name, gatecore, "refine", weaker_refine) for name in (
        "Equations (12), (16), D.5", "Figure 2b, band", "Section 2.3, alpha", "Proposition 2",
        "Proposition 4, each gate", "Proposition 4, one gate", "Listing 2, initial law",
        "Section 2.4, uniform refine", "Listing 2, other starts", "Appendix C, gradient",
        "Appendix C, norm", "Figure 2d, upper bound", "Figure 2d, lower bound",
        "Figure 2d, forget logit alone", "Section 2.3, saturation",
    )),
    *((name, gatecore, "refine", swapped_refine) for name in (
        "Equations (12), (16), D.5", "Proposition 2", "Figure 2b, band", "Section 2.3, alpha",
        "Listing 2, initial law", "Appendix C, gradient",
    )),
    *((name, gatecore, "timescale", shorter_timescale) for name in (
        "Proposition 1", "Proposition 1, truncated", "Proposition 2", "Table 4, constant bias",
        "Table 4, chrono with T_max", "Table 4, uniform gates", "Table 4, cumax", "Footnote 2",
        "B.4, time warps",
    )),
    *((name, gatecore, "master", product_master) for name in (
        "Equations (21)-(23)", "Proposition 3, forget gate", "Proposition 3, sum",
        "Proposition 4, rescaling",
    )),
    *((name, gatecore, "cumax", reversed_cumax) for name in (
        "B.4, ordered master gates", "(19), (28), (34), last unit", "Table 4, cumax",
    )),
    *((name, gatecore, "sigmoid", doubled_sigmoid) for name in (
        "Appendix C, gradient", "Table 4, constant bias", "Table 4, chrono with T_max",
    )),
    ("D.5, in float32", gatecore, "refine", subtracted_refine),
    ("Section 2.2, in bfloat16", gatecore, "refine", subtracted_refine),
    ("Equation (13), in float32", gatecore.cells, "update", imprecise_update),
    ("B.4, time warps", gatecore.cells, "update", lambda c, u, f: f.value * c + u),
    ("Appendix C, gradient", gatecore, "refine_vjp", lambda f, r, v: (v * f.value, v * r.value)),
    ("Section 2.6, parameters", gatecore.Mechanism, "rows", wrong_rows),
    ("Listings 1 and 2", gatecore.cells.LSTM, "step", doubled_step),
    ("Listings 1 and 2", equivalence, "LISTING_2_INITIALIZATION", "u = 1"),
    ("Proposition 1, truncated", gatecore.init, "uniform_quantile",
     lambda u, width: UNIFORM(u, 2 * width)),
    ("Table 4, chrono with T_max", gatecore.init, "chrono_quantile",
     lambda u, t_max: CHRONO(u, t_max + 1)),
    ("Section 3.3, T_max", gatecore.init, "chrono_quantile",
     lambda u, t_max: np.log(t_max / 2) + 0 * u),
    ("Section 3.3, T_max", chrono, "mean_bias", lambda t_max: np.log(t_max)),
    ("Table 4, chrono without T_max", gatecore.init, "CHRONO_NORMALISER", 3.3877),
    ("Table 4, chrono without T_max", gatecore.init, "chrono_unbounded_quantile",
     lambda u: np.log(2) / (1 - u)),
    ("Figure 2d, upper bound", gradients, "gradient_bounds", lambda g: (g, 2 - g)),
    ("Figure 2d, lower bound", gradients, "gradient_bounds", lambda g: (1 + 0 * g, 2 + 0 * g)),
    ("Listing 2, initial law", initial, "initial_gate_density", lambda m, g: 1 + 0 * g),
    ("D.5, bit reversal", permutation, "bit_reversal", lambda n: np.arange(n)[::-1]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "holder", "attribute", "wrong"), WRONG,
    ids=[f"{name}-{attribute}" for name, _, attribute, _ in WRONG],
)  # fmt: skip
def test_a_wrong_formula_is_rejected(name, holder, attribute, wrong, monkeypatch):
    monkeypatch.setattr(holder, attribute, wrong)
    claim = PROPOSITIONS[name].judge()
    assert not claim.ok, claim.evidence


def test_every_claim_has_a_wrong_formula():
    assert {name for name, *_ in WRONG} == set(PROPOSITIONS)


# ---- verdicts --------------------------------------------------------------------------------


def judge(expected, as_stated, fact):
    def check():
        return as_stated, [("a", fact)]

    return Proposition("n", "s", "t", "m", expected, check).judge()


@pytest.mark.parametrize(
    ("expected", "as_stated", "fact", "verdict"),
    [
        (HOLDS, True, True, HOLDS),
        (CORRECTED, False, True, CORRECTED),
        (FALSE, False, True, FALSE),
        (HOLDS, False, True, FALSE),
        (CORRECTED, True, True, HOLDS),
        (HOLDS, True, False, OPEN),
        (FALSE, False, False, OPEN),
    ],
)
def test_the_verdict_follows_from_the_wording_and_the_facts(expected, as_stated, fact, verdict):
    claim = judge(expected, as_stated, fact)
    assert (claim.verdict, claim.ok) == (verdict, verdict == expected)
    assert ("FAILED" in claim.evidence) == (not fact)
