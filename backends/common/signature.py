"""The signature of a cell, and the code that records it in a saved state.

The signature is all that a cell's results depend on but for the sizes, as a string, which operators
and checkpoints carry. Mechanisms that differ in their initial biases alone ("standard", "U", "C")
have equal signatures: their weights interchange.
"""

import math
from collections.abc import Iterable

from gatecore.mechanisms import MECHANISMS, Mechanism

# of the layers of other libraries, whose states name no mechanism
STANDARD_SIGNATURES = {"lstm": "lstm sigmoid none 1", "gru": "gru sigmoid none 1"}
# the code's first three integers count from 1 in these; the others are the downsizing, hexadecimal
_FIELDS = (
    ("lstm", "gru", "minimal", "gate", "rmc", "mingru", "mingru_tanh", "lstm_norm", "gru_norm",
     "minimal_norm", "mingru_norm", "mingru_tanh_norm"),
    ("sigmoid", "cumax"), ("none", "refine", "master", "untied"),
)  # fmt: skip


def signature(core: str, mechanism: Mechanism) -> str:
    """Core, activation, kind of gates and downsizing, for example "lstm sigmoid refine 1".

    ``core`` is ``Cell.kind`` of a cell.
    """
    downsize = mechanism.downsize if mechanism.auxiliary == "master" else 1
    return f"{core} {mechanism.activation} {mechanism.kind} {downsize}"


def mechanism_names(signature: str, saved: str | None = None) -> str:
    """The mechanisms of a signature, as arguments; ``saved`` is the name, if it is known."""
    fields = signature.split()[1:3]
    known = (m for m in MECHANISMS.values() if [m.activation, m.auxiliary] == fields)
    names = repr(saved) if saved else " or ".join(repr(m.name) for m in known)
    untied = fields[1] == "untied"
    return f"gatecore.mechanism({names or repr('UR')}, tied=False)" if untied else names


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
