"""The mechanism in the states of flax cells, and the refusal of another mechanism's state.

The bias of a cell is named after the cell's signature, as ``bias_lstm_sigmoid_refine_1``. So a
state records what it was trained for in its structure, under every transformation and tracing,
whatever becomes of the numbers: casts, averages, weight decay, a state of the parameters alone.
"""

import re

from gatecore.backends.common.signature import ACTIVATIONS, KINDS, check_recorded, signature
from gatecore.mechanisms import Mechanism

_PREFIX = "bias_"
_NAME = re.compile(rf"{_PREFIX}(\w+)_({'|'.join(ACTIVATIONS)})_({'|'.join(KINDS)})_(\d+)")


def bias_name(kind: str, mechanism: Mechanism) -> str:
    """The name of the bias in the state of a cell of this ``Cell.kind``.

    >>> from gatecore import mechanism
    >>> bias_name("lstm_norm", mechanism("UR"))
    'bias_lstm_norm_sigmoid_refine_1'
    """
    return _PREFIX + signature(kind, mechanism).replace(" ", "_")


def recorded(name: str) -> str:
    """The signature that the name of an entry records, else an empty string.

    >>> recorded("bias_lstm_norm_sigmoid_refine_1"), recorded("bias_n")
    ('lstm_norm sigmoid refine 1', '')
    """
    match = _NAME.fullmatch(name)
    return " ".join(match.groups()) if match else ""


def check_name(name: str, kind: str, mechanism: Mechanism) -> None:
    """Raise ValueError if ``name`` is the bias of another signature."""
    if saved := recorded(name):
        check_recorded(saved, signature(kind, mechanism), mechanism, subject="the state is")
