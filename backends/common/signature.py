"""The signature of a cell, and the code that records it in a saved state.

The signature is all that a cell's results depend on but for the sizes, as a string, which operators
and checkpoints carry. Mechanisms that differ in their initial biases alone ("standard", "U", "C")
have equal signatures: their weights interchange.
"""

import math
from collections.abc import Iterable
from typing import Any

from gatecore.cells import CANDIDATES, CELLS
from gatecore.mechanisms import MECHANISMS, Mechanism

# of the layers of other libraries, whose states name no mechanism
STANDARD_SIGNATURES = {"lstm": "lstm sigmoid none 1", "gru": "gru sigmoid none 1"}
ACTIVATIONS, KINDS = ("sigmoid", "cumax"), ("none", "refine", "master", "untied")
# the code's first three integers count from 1 in these; the others are the downsizing, hexadecimal
_FIELDS = (
    ("lstm", "gru", "minimal", "gate", "rmc", "mingru", "mingru_tanh", "lstm_norm", "gru_norm",
     "minimal_norm", "mingru_norm", "mingru_tanh_norm"),
    ACTIVATIONS, KINDS,
)  # fmt: skip


def signature(core: str, mechanism: Mechanism) -> str:
    """Core, activation, kind of gates and downsizing, for example "lstm sigmoid refine 1".

    ``core`` is ``Cell.kind`` of a cell.
    """
    downsize = mechanism.downsize if mechanism.auxiliary == "master" else 1
    return f"{core} {mechanism.activation} {mechanism.kind} {downsize}"


def core_settings(kind: str) -> tuple[str, dict[str, Any]]:
    """The core of a ``Cell.kind``, and the settings of the cell that the kind names.

    >>> core_settings("mingru_tanh_norm")
    ('mingru', {'layer_norm': True, 'candidate': 'tanh'})
    """
    core, *extensions = kind.split("_")
    settings: dict[str, Any] = {"layer_norm": "norm" in extensions}
    if core in CELLS and not CELLS[core].recurrent:  # the linear recurrence has candidates
        named = (candidate for candidate in CANDIDATES if candidate in extensions)
        settings["candidate"] = next(named, CANDIDATES[0])
    return core, settings


def mechanism_names(signature: str, saved: str | None = None) -> str:
    """The mechanisms of a signature, as arguments; ``saved`` is the name, if it is known."""
    _, activation, kind, downsize = signature.split()
    fields = activation, "refine" if kind == "untied" else kind
    names = [m.name for m in MECHANISMS.values() if (m.activation, m.auxiliary) == fields]
    names = [saved] if saved else names
    options = ", tied=False" * (kind == "untied")
    options += f", downsize={downsize}" * (downsize != "1")
    if options:
        return f"gatecore.mechanism({names[-1]!r}{options})"
    return " or ".join(map(repr, names))


def check_recorded(recorded: str, expected: str, mechanism: Mechanism, *, subject: str,
                   module: str = "cell", saved: str | None = None) -> None:  # fmt: skip
    """Raise ValueError if a state records another signature than that of a module.

    The error begins with the ``subject``, such as "the state is", and calls the module, which has
    this ``mechanism``, a ``module``; ``saved`` is the recorded mechanism's name, if it is known.
    """
    if recorded == expected:
        return
    (core, settings), (own_core, own) = (core_settings(s.split()[0]) for s in (recorded, expected))
    names = mechanism_names(recorded, saved)
    if core != own_core:
        advice = f"load weights of a {own_core}, or make a {module} that is a {core}"
    else:
        different = [name for name in settings if settings[name] != own[name]]
        theirs, here = ("".join(f" and {name}={values[name]!r}" for name in different)
                        for values in (settings, own))  # fmt: skip
        advice = (f"make the {module} with mechanism={names}{theirs}, or load weights that were "
                  f"trained with {mechanism.name!r}{here}")  # fmt: skip
    raise ValueError(f"{subject} of mechanism {names} ({recorded}), this {module} has "
                     f"{mechanism.name!r} ({expected}): {advice}")  # fmt: skip


def encode(signature: str) -> list[float]:
    """The integers from 0 to 15 that record a signature, exact in any floating point type."""
    *fields, downsize = signature.split()
    places = [names.index(field) + 1 for names, field in zip(_FIELDS, fields, strict=True)]
    return [float(n) for n in (*places, *(int(digit, 16) for digit in f"{int(downsize):04x}"))]


def decode(code: Iterable[float]) -> str:
    """The signature that :func:`encode` recorded; ValueError if it is none of this version's."""
    code = list(code)
    if not all(math.isfinite(n) and abs(n - round(n)) < 0.25 for n in code):
        raise ValueError(f"{code} are not integers; average states of one mechanism only")
    places, digits = [round(n) for n in code[:3]], [round(n) for n in code[3:]]
    if not all(1 <= n <= len(names) for names, n in zip(_FIELDS, places, strict=True)):
        raise ValueError(f"{places + digits} is no code that this version knows: update gatecore")
    fields = (names[n - 1] for names, n in zip(_FIELDS, places, strict=True))
    return " ".join((*fields, str(sum(d * 16**k for k, d in enumerate(reversed(digits))))))
