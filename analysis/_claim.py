"""How a claim is stated and judged.

A check reports facts: short statements, each shown true or not by running the library's own
functions. The paper's wording is one question (`as_stated`), the facts are the other; the verdict
follows from both, so a wrong formula in the library can't leave a verdict standing.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import sympy
from sympy.polys.polyerrors import BasePolynomialError

from gatecore import Gate

HOLDS = "holds"
CORRECTED = "holds as corrected"
FALSE = "false as stated"
OPEN = "not established"

PROOF = "symbolic proof"
CERTIFIED = "certified bound"
MONTE_CARLO = "Monte Carlo, 99.99 % confidence interval"
ENUMERATION = "exact enumeration"
PRECISION = "comparison with high precision"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper and what became of it.

    Attributes
    ----------
    name : str
    statement : str
        What the paper says.
    verdict : str
        "holds", "holds as corrected", "false as stated", or "not established" where the library
        does not do what the truth below says.
    evidence : str
        What was shown, fact by fact; a fact that failed is marked FAILED.
    ok : bool
        Whether the verdict is the expected one.
    truth : str
        What is true.
    method : str
        How it was established.
    """

    name: str
    statement: str
    verdict: str
    evidence: str
    ok: bool
    truth: str = ""
    method: str = ""


class Fact(NamedTuple):
    """A statement and whether it was shown."""

    text: str
    true: bool


class Finding(NamedTuple):
    """What a check found: whether the paper's wording holds, and the facts of the truth."""

    as_stated: bool
    facts: tuple[Fact, ...]


class Proposition(NamedTuple):
    """A claim before it is judged: ``expected`` is its verdict if the library is right."""

    name: str
    statement: str
    truth: str
    method: str
    expected: str
    check: Callable[[], Finding]

    def judge(self) -> Claim:
        """Run the check.

        With a wrong formula a check may have nothing to solve or to divide; that refutes it too.
        """
        try:
            as_stated, facts = self.check()
        except (ArithmeticError, LookupError, TypeError, ValueError, BasePolynomialError) as error:
            as_stated, facts = finding(False, (f"broke off with {type(error).__name__}", False))
        if not all(fact.true for fact in facts):
            verdict = OPEN
        elif as_stated:
            verdict = HOLDS
        else:
            verdict = self.expected if self.expected in (CORRECTED, FALSE) else FALSE
        evidence = "; ".join(("" if fact.true else "FAILED: ") + fact.text for fact in facts)
        ok = verdict == self.expected
        return Claim(self.name, self.statement, verdict, evidence, ok, self.truth, self.method)


def finding(as_stated: Any, *facts: tuple[str, Any]) -> Finding:
    """A Finding from pairs (text, shown)."""
    return Finding(bool(as_stated), tuple(Fact(text, bool(true)) for text, true in facts))


def proved(*facts: tuple[str, Any]) -> Finding:
    """The finding of a claim whose wording is what the facts say."""
    return finding(all(true for _, true in facts), *facts)


def symbolic_gate(name: str) -> tuple[sympy.Symbol, Gate]:
    """A symbol in (0, 1) and the gate of that value."""
    symbol = sympy.Symbol(name, positive=True)
    return symbol, Gate(symbol, 1 - symbol)


def same(left: Any, right: Any) -> bool:
    """Whether two rational expressions are identical: decided exactly, not by heuristics."""
    return sympy.cancel(sympy.together(sympy.sympify(left) - sympy.sympify(right))) == 0


def consistent(gate: Gate) -> bool:
    """Whether the two sides of a gate of rational expressions sum to 1 identically."""
    return same(gate.value + gate.complement, 1)
