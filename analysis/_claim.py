"""How a claim of the paper is declared, checked and given a verdict.

A check returns whether the paper's wording holds, and facts about the library's own functions:
pairs (text, whether it is true). The verdict follows from both, so a wrong formula in the library
changes it.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from sympy.polys.polyerrors import BasePolynomialError

HOLDS = "holds"
CORRECTED = "holds as corrected"
FALSE = "false as stated"
OPEN = "not established"

PROOF = "symbolic proof"
CERTIFIED = "certified bound"
SAMPLED = f"{PROOF}; Monte Carlo, 99.99 % confidence interval"
ENUMERATION = "exact enumeration"
PRECISION = "comparison with high precision"
PRINTED = "comparison with the printed equations"

Result = tuple[Any, Sequence[tuple[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the paper and its verdict.

    ``name`` is where the paper makes it, ``statement`` the paper's statement, ``truth`` the correct
    one. Where the paper states nothing and the finding is ours, ``statement`` is empty. ``verdict``
    is "holds", "holds as corrected", "false as stated", or "not established" if a fact of the
    evidence fails; ``ok`` is whether it is the expected one. ``evidence`` has the facts tested,
    separated by "; "; a fact that fails begins with "FAILED: ". ``method`` is how the facts are
    established, for example "symbolic proof".
    """

    name: str
    statement: str
    verdict: str
    evidence: str
    ok: bool
    truth: str = ""
    method: str = ""


class Proposition(NamedTuple):
    """A claim before it is checked; ``expected`` is its verdict if the library is correct."""

    name: str
    statement: str
    truth: str
    method: str
    expected: str
    check: Callable[[], Result]

    def judge(self) -> Claim:
        """Run the check and give the verdict."""
        try:
            as_stated, facts = self.check()
        # a wrong formula can leave a check nothing to solve or to divide: that is a failed fact
        except (ArithmeticError, LookupError, TypeError, ValueError, BasePolynomialError) as error:
            as_stated, facts = False, [(f"the check raised {type(error).__name__}", False)]
        if not all(true for _, true in facts):
            verdict = OPEN
        elif as_stated:
            verdict = HOLDS
        else:
            verdict = self.expected if self.expected in (CORRECTED, FALSE) else FALSE
        evidence = "; ".join(("" if true else "FAILED: ") + text for text, true in facts)
        ok = verdict == self.expected
        return Claim(self.name, self.statement, verdict, evidence, ok, self.truth, self.method)


def claim(name: str, expected: str, statement: str, truth: str,
          method: str = PROOF) -> Callable[[Callable[[], Result]], Proposition]:  # fmt: skip
    """Decorator that makes a :class:`Proposition` of a check."""
    return lambda check: Proposition(name, statement, truth, method, expected, check)
