"""Gates outside of recurrence: for highway layers, gated linear units, attention, mixtures."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from gatecore import _checks, mechanisms
from gatecore.algebra import Gate
from gatecore.backends.common.validation import gate_slots
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.checkpoint import Stateful, has_values
from gatecore.backends.torch.sequence.implementation import check_memory
from gatecore.mechanisms import Mechanism


def gate(logits: Tensor, mechanism: str | Mechanism = "UR", bias: Tensor | None = None, *,
         size: int) -> Gate:  # fmt: skip
    """The effective gates of logits (..., features): :class:`GateUnit` as a function.

    ``features`` and ``bias`` (features,) are as a :class:`GateUnit` of this size and mechanism has
    them. Returned are ``value`` and ``complement`` in [0, 1], both (..., size), at least float32.
    ValueError if the logits have another number of features.

    >>> gate(torch.zeros(3, 8), "standard", size=8).value[0, 0]
    tensor(0.5000)
    """
    check_memory(logits=(logits,))
    mechanism = mechanisms.mechanism(mechanism)
    widths = gate_slots(mechanism, _checks.integer("size", size))
    if logits.shape[-1] != sum(widths.values()):
        raise ValueError(f"logits must have {sum(widths.values())} entries along the last axis "
                         f"({', '.join(f'{k} {v}' for k, v in widths.items())}), got "
                         f"{logits.shape[-1]}: give the layer before as many outputs")  # fmt: skip
    wide = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(wide) if bias is None else logits.to(wide) + bias.to(wide)
    parts = dict(zip(widths, logits.split(list(widths.values()), -1), strict=True))
    return mechanism.gates(parts)[0]


class GateUnit(Stateful):
    """``size`` gates with any mechanism, and their biases.

    ``features`` is the number of logits: ``size`` for "standard", twice as many for "UR" (forget,
    refine). The parameter ``bias`` (features,), of this device and dtype, is initialized by the
    mechanism.

    >>> unit = GateUnit(8, "UR")
    >>> carry, transform = unit(torch.zeros(3, unit.features))  # a highway layer's two gates
    >>> carry.shape
    torch.Size([3, 8])
    """

    core = "gate"

    def __init__(self, size: int, mechanism: str | Mechanism = "UR", device: Any = None,
                 dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        self.size, self.mechanism = _checks.integer("size", size), mechanisms.mechanism(mechanism)
        self.features = sum(gate_slots(self.mechanism, self.size).values())
        self.bias = nn.Parameter(torch.empty(self.features, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Re-initialize the biases, from torch's default generator."""
        self._record_mechanism()
        if has_values(self.bias):
            biases = self.mechanism.biases("minimal", self.size, parameters.generator())
            slots = gate_slots(self.mechanism, self.size)
            self.bias.copy_(torch.cat([torch.from_numpy(biases[slot]) for slot in slots]))

    def forward(self, logits: Tensor) -> Gate:
        """The effective gates, ``value`` and ``complement`` (..., size), of (..., features)."""
        if isinstance(logits, fx.Proxy):
            return self._fx_node(logits)
        return gate(logits, self.mechanism, self.bias, size=self.size)

    def extra_repr(self) -> str:
        return f"{self.size}, mechanism={self.mechanism.name!r}"
