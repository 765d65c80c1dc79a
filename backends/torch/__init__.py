"""The torch backend: ``torch.nn.LSTM`` and its relatives with any gate mechanism.

Layers (``LSTM``, ``GRU``, ``Minimal``, ``MinGRU``), also as functions (``lstm``, …) and cells
(``LSTMCell``, …); gates for other modules (``GateUnit``); cores with an external memory
(``RelationalMemory``, ``DNC``, ``RMA``); the conversion of models (``convert``) and statistics of
their gates (``watch``);
the ``Learner`` of a ``ModelSpec`` and the actor-critic ``Agent``.
"""

from gatecore.backends.torch.inspect.watch import Watch, watch
from gatecore.backends.torch.memory_cores.dnc import DNC, DNCState
from gatecore.backends.torch.memory_cores.relational import RelationalMemory
from gatecore.backends.torch.memory_cores.rma import RMA, RMAState, Unrolled
from gatecore.backends.torch.nn.cells import GRUCell, LSTMCell, MinGRUCell, MinimalCell
from gatecore.backends.torch.nn.convert import convert
from gatecore.backends.torch.nn.functional import gru, layer_vjp, lstm, mingru, minimal
from gatecore.backends.torch.nn.gate_unit import GateUnit, gate
from gatecore.backends.torch.nn.layers import GRU, LSTM, MinGRU, Minimal
from gatecore.backends.torch.rl.agent import Agent
from gatecore.backends.torch.sequence.dispatch import release
from gatecore.backends.torch.training.learner import Learner, unsupported

__all__ = [
    "DNC", "GRU", "LSTM", "RMA", "Agent", "DNCState", "GRUCell", "GateUnit", "LSTMCell", "Learner",
    "MinGRU", "MinGRUCell", "Minimal", "MinimalCell", "RMAState", "RelationalMemory", "Unrolled",
    "Watch", "convert", "gate", "gru", "layer_vjp", "lstm", "mingru", "minimal", "release",
    "unsupported", "watch",
]  # fmt: skip
