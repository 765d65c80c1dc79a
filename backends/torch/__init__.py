"""The torch backend: ``torch.nn.LSTM`` and its relatives with any gate mechanism.

Layers (``LSTM``, ``GRU``, ``Minimal``), single steps (``LSTMCell``, …), gates for anything
(``GateUnit``), the rewriting of models (``convert``), the same layers as functions (``lstm``, …),
what the gates of a running model do (``watch``), the ``Learner`` that trains a ``ModelSpec``, and
the ``Agent`` that plays.
"""

from gatecore.backends.torch.agent import Agent
from gatecore.backends.torch.convert import convert
from gatecore.backends.torch.dnc import DNC, DNCState
from gatecore.backends.torch.functional import gru, lstm, minimal
from gatecore.backends.torch.layers import GRU, LSTM, Minimal
from gatecore.backends.torch.learner import Learner
from gatecore.backends.torch.relational import RelationalMemory
from gatecore.backends.torch.release import release
from gatecore.backends.torch.rma import RMA, RMAState, Unrolled
from gatecore.backends.torch.stepwise import GRUCell, LSTMCell, MinimalCell
from gatecore.backends.torch.unit import GateUnit, gate
from gatecore.backends.torch.watch import Watch, watch

__all__ = [
    "DNC",
    "GRU",
    "LSTM",
    "RMA",
    "Agent",
    "DNCState",
    "GRUCell",
    "GateUnit",
    "LSTMCell",
    "Learner",
    "Minimal",
    "MinimalCell",
    "RMAState",
    "RelationalMemory",
    "Unrolled",
    "Watch",
    "convert",
    "gate",
    "gru",
    "lstm",
    "minimal",
    "release",
    "watch",
]
