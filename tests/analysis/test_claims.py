"""Every claim gets the expected verdict; those on measurements name runs that show them."""

import dataclasses
import json
import statistics
from pathlib import Path

import pytest

from gatecore.analysis import claims
from gatecore.analysis._claim import CORRECTED, FALSE, HOLDS, OPEN, Proposition
from gatecore.tasks.cli import claims as all_claims

ROOT = Path(__file__).resolve().parents[2]

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
    "Listing 2, initial law": HOLDS,
    "Figure 4, start": HOLDS,
    "Section 2.4, parameters of a GRU": CORRECTED,
    "Footnote 4": CORRECTED,
    "Listings 1 and 2": FALSE,
    "Table 4, constant bias": HOLDS,
    "Table 4, chrono with T_max": HOLDS,
    "Table 4, chrono without T_max": CORRECTED,
    "Table 4, uniform gates": HOLDS,
    "Table 4, cumax": CORRECTED,
    "Section 3.3, T_max": FALSE,
    "Footnote 2": CORRECTED,
    "D.5, bit reversal": CORRECTED,
    "(19), (28), (34), last unit": HOLDS,
}
FINDINGS = {
    "(19), (28), (34), last unit",
    "Figure 2d, forget logit alone",
    "Listing 2, initial law",
    "Section 2.2, in bfloat16",
    "Section 2.4, uniform refine",
}


@pytest.fixture(scope="module")
def verified():
    return {claim.name: claim for claim in claims.verify()}


def test_every_verdict_is_the_expected_one(verified):
    assert [claim.evidence for claim in verified.values() if not claim.ok] == []
    assert {name: verified[name].verdict for name in EXPECTED} == EXPECTED


def test_every_claim_has_evidence_truth_and_method(verified):
    for claim in verified.values():
        assert all(isinstance(text, str) for text in dataclasses.astuple(claim)[:4])
        assert claim.truth
        assert claim.evidence
        assert claim.method


def test_what_the_paper_does_not_state_is_no_claim_of_it(verified):
    assert {name for name, claim in verified.items() if not claim.statement} == FINDINGS


def test_names_are_unique():
    names = [proposition.name for proposition in all_claims.propositions()]
    assert len(set(names)) == len(names)


def test_the_readme_says_how_many_claims_of_the_paper_are_checked():
    count = sum(bool(proposition.statement) for proposition in all_claims.propositions())
    assert f"checks {count} claims of the paper" in (ROOT / "README.md").read_text("utf-8")


# ---- measurements ----------------------------------------------------------------------------

EMPIRICAL = claims.empirical()


def groups_of(entry):
    """The groups of docs/evidence that a claim on measurements names."""
    for file, title in entry.runs:
        text = (ROOT / "docs" / "evidence" / file).read_text("utf-8")
        yield next(group for group in json.loads(text)["groups"] if group["title"] == title)


def median(group, mechanism):
    """The median test score of a mechanism; of UR with its default bias, where that was run."""
    names = (mechanism, f"{mechanism} (refine_bias=uniform)", f"{mechanism} (refine_bias=opposed)")
    name = next(name for name in names if name in group["mechanisms"])
    score = statistics.median(group["mechanisms"][name]["test_by_seed"].values())
    return score if group["score"]["higher_is_better"] else -score


@pytest.mark.parametrize("entry", EMPIRICAL, ids=[entry.claim for entry in EMPIRICAL])
def test_the_runs_that_a_claim_on_measurements_names_show_its_order(entry):
    assert entry.state in ("agrees", "does not", "not tried at this scale")
    assert entry.note
    assert bool(entry.order) <= bool(entry.runs)
    assert entry.runs or entry.state.startswith("not tried")
    for group in groups_of(entry):
        for better, worse in zip(entry.order, entry.order[1:], strict=False):
            least = min(median(group, mechanism) for mechanism in better)
            assert least > max(median(group, mechanism) for mechanism in worse)


def timescales(title, mechanism, statistic, refine_bias="neutral"):
    """A statistic of the units' timescales after training, of each seed."""
    text = (ROOT / "docs" / "evidence" / "synthetic.json").read_text("utf-8")
    (group,) = [group for group in json.loads(text)["groups"] if group["title"] == title]
    return [run["timescales"]["after"][statistic] for run in group["runs"]
            if (run["mechanism"], run["settings"]["mechanism.refine_bias"])
            == (mechanism, refine_bias)]  # fmt: skip


def test_the_timescales_that_claims_on_measurements_state_are_those_of_the_runs():
    notes = {entry.claim.partition(":")[0]: entry.note for entry in EMPIRICAL}
    smallest = [statistics.median(timescales("Forgetting, N=500, gates from σ(6)", m, "smallest"))
                for m in ("R", "standard")]  # fmt: skip
    stated = "{:.0f} steps with R, {:.0f} with standard".format(*smallest)
    assert stated in notes["Figure 9"]
    assert 10 * smallest[0] > smallest[1]  # no order of magnitude: "does not"
    stated = (
        "no standard gate has a timescale above 4 steps after training; the longest of UR falls"
    )
    assert f"{stated} below 60" in notes["Figure 4"]
    assert max(timescales("Copy, N=100", "standard", "largest")) < 4
    assert max(timescales("Copy, N=100", "UR", "largest", "uniform")) < 60


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
