"""What the paper says of the order of the mechanisms, and whether stored results agree with it.

A claim consists of pairs of mechanisms. Each pair is judged by the statistics of the report: the
95 % interval of the difference of the two test scores, paired by seed, and the margin by which a
score must exceed the best memoryless baseline.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from stored_results import scores

from gatecore.tasks.problems.base import PERFECT
from gatecore.tasks.reports.paired_statistics import compare
from gatecore.tasks.reports.published_results import PERPLEXITIES, TABLE2
from gatecore.tasks.reports.trial import MARGIN

Pairs = tuple[tuple[str, str], ...]


def _each(better: str, worse: str) -> Pairs:
    """The pairs of each of the ``better`` with each of the ``worse``, names in one string."""
    return tuple(itertools.product(better.split(), worse.split()))


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement of the paper about one task, as pairs (better, worse) of mechanisms."""

    source: str  # section, figure or table
    statement: str
    pairs: Pairs


_MASTER = (("UR", "UM"), ("OR", "OM"))
CLAIMS = {
    "copying": (
        Claim("Figure 3", "Only OR, UR, O and C solve it; standard, R, OM and UM stay at a guess.",
              _each("OR UR O C", "standard R OM UM")),
        Claim("Figure 3", "U makes progress, and does not solve it.",
              _each("OR UR O C", "U") + _each("U", "standard R OM UM")),
    ),
    "adding": (
        Claim("Figure 3", "All but the plain LSTM solve it.",
              _each("C O U R OM OR UM UR", "standard")),
        Claim("Figure 3", "All refine gates are fastest.", _each("R OR UR", "C O U OM UM")),
    ),
    "forgetting": (
        Claim("Section E.1", "From saturated gates, R solves it and the LSTM does not.",
              _each("R", "standard")),
    ),
    "pixels": (
        Claim("Section 3.2", "The basic LSTM is worse than all others.",
              _each("C O U R OM OR UM UR", "standard")),
        Claim("Section 3.2", "Uniform initialization is generally better than ordered and chrono.",
              (*_each("U", "O C"), ("UR", "OR"), ("UM", "OM"))),
        Claim("Section 3.2", "The refine gate is better than the master gate.", _MASTER),
        Claim("Section 3.2", "C is worse than any other variant.",
              _each("O U R OM OR UM UR", "C")),
    ),
    "language": (
        Claim("Table 6a", "OM, U and UR are better than the LSTM, U and UR most.",
              _each("OM U UR", "standard") + _each("U UR", "OM")),
        Claim("Table 6a", "C is worse than any other.", _each("standard OM U UR", "C")),
    ),
    "programs": (
        Claim("Section E.3", "C has very poor performance.", _each("standard OM U UR", "C")),
        Claim("Section E.3", "UR outperforms all others.", _each("UR", "standard C OM U")),
    ),
    "match": (
        Claim("Section 3.4", "UR substantially improves the basic LSTM.", _each("UR", "standard")),
    ),
}  # fmt: skip
_RESULTS = {
    "copying": dict.fromkeys(("OR", "UR", "O", "C"), "solved") | {"U": "progress"}
    | dict.fromkeys(("standard", "R", "OM", "UM"), "a guess"),
    "adding": dict.fromkeys(("R", "OR", "UR"), "solved first")
    | dict.fromkeys(("C", "O", "U", "OM", "UM"), "solved") | {"standard": "not solved"},
    "language": {name: test for name, (_, test) in PERPLEXITIES.items()},
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim, and the pairs of it that a group of runs has, by what its scores show."""

    claim: Claim
    agreeing: Pairs
    contrary: Pairs
    undecided: Pairs

    def __str__(self) -> str:
        if self.contrary:
            return "does not agree"
        return "too small to say" if self.undecided else "agrees"


def verdicts(group: dict[str, Any]) -> list[Verdict]:
    """The claims about the task of a group of which it has a pair on three seeds or more.

    None of a MinGRU, which the paper does not train.
    """
    settings = group["settings"]
    claims = () if settings["core"] == "mingru" else CLAIMS.get(settings["task.name"], ())
    judged = (_verdict(claim, group) for claim in claims)
    return [v for v in judged if v.agreeing or v.contrary or v.undecided]


def _verdict(claim: Claim, group: dict[str, Any]) -> Verdict:
    """A pair is decided if the interval excludes 0, and the better of the two beats no memory."""
    pairs: dict[str, list[tuple[str, str]]] = {"agreeing": [], "contrary": [], "undecided": []}
    for pair in claim.pairs:
        tests = [default_scores(group, name) for name in pair]
        difference = compare(*tests)
        if difference is None or len(difference.seeds) < 3:
            continue
        agrees = (difference.mean > 0) == group["score"]["higher_is_better"]
        decided = difference.significant and remembers(group, tests[0 if agrees else 1])
        kind = ("agreeing" if agrees else "contrary") if decided else "undecided"
        pairs[kind].append(pair)
    return Verdict(claim, **{kind: tuple(those) for kind, those in pairs.items()})


def default_scores(group: dict[str, Any], name: str) -> dict[int, float]:
    """Test scores by seed of a mechanism, with the default refine bias where several were run."""
    return scores(group, name) or scores(group, f"{name} (refine_bias=uniform)")


def remembers(group: dict[str, Any], tests: dict[int, float]) -> bool:
    """Whether the median is better by at least 1 % than the best memoryless baseline."""
    baselines = [value for name, value in group["baselines"].items() if name != PERFECT]
    if group["score"]["higher_is_better"]:
        return float(np.median([*tests.values()])) > max(baselines) * (1 + MARGIN)
    return float(np.median([*tests.values()])) < min(baselines) * (1 - MARGIN)


def result(group: dict[str, Any], label: str) -> str:
    """The paper's result with a mechanism on the task of a group, or "" if it states none."""
    settings, name = group["settings"], label.split()[0]
    if settings["core"] == "mingru":  # which the paper does not train
        return ""
    if settings["task.name"] == "pixels" and settings["task.permute"]:
        return TABLE2["pMNIST", "lstm"].get(name, "")
    return _RESULTS.get(settings["task.name"], {}).get(name, "")
