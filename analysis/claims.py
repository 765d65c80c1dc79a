"""The paper's claims, checked on the library's functions, and the state of its experiments."""

import importlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from gatecore.analysis import layers
from gatecore.analysis._claim import Claim, Proposition

__all__ = ["Claim", "Empirical", "Proposition", "empirical", "propositions", "verify"]

_MODULES = [importlib.import_module(f"gatecore.analysis.{name}") for name in (
    "layers", "biases", "decay", "chrono", "initial", "ordered", "equivalence", "gradients",
    "saturation", "permutation")]  # fmt: skip


class Empirical(NamedTuple):
    """A claim of the paper about measurements, and the state of our evidence: no proof.

    ``state`` is "agrees", "does not" or "not tried at this scale"; ``note`` says at which scale.
    ``runs`` are (file in docs/evidence, title of a group in it). ``order`` has groups of mechanisms
    of which each scored better in all ``runs`` than those of the next, by the median of its seeds.
    """

    claim: str
    state: str
    note: str
    runs: Sequence[tuple[str, str]]
    order: Sequence[Sequence[str]] = ()


def empirical() -> list[Empirical]:
    """The paper's claims about measurements, in its order.

    >>> sorted({entry.state for entry in empirical()})
    ['agrees', 'does not', 'not tried at this scale']
    """
    listed = json.loads((Path(__file__).parent / "empirical.json").read_text(encoding="utf-8"))
    return [Empirical(**entry) for entry in listed]


def propositions(trained: Iterable[layers.Layer] = ()) -> tuple[Proposition, ...]:
    """All claims before they are checked, in the order of the report.

    Those on cells are also checked on the layers ``trained``: see :func:`verify`.
    """
    values = (value for module in _MODULES for value in vars(module).values())
    found = tuple(value for value in values if isinstance(value, Proposition))
    return layers.propositions(trained) + found


def verify(trained: Iterable[layers.Layer] = ()) -> list[Claim]:
    """Check every claim of the paper (Gu et al. 2020) on gatecore's functions; takes seconds.

    The order is that of :func:`propositions`; ``ok`` is True in all if the library is correct.
    The claims on cells are checked on ``gatecore.cells``, and on the layers of ``trained``, forward
    and backward. The command ``gatecore verify`` gives those of every backend that is installed,
    and checks the tasks as well.

    >>> claim = next(p for p in propositions() if p.name == "Proposition 2").judge()
    >>> claim.name, claim.verdict, claim.ok
    ('Proposition 2', 'holds as corrected', True)
    """
    return [proposition.judge() for proposition in propositions(trained)]
