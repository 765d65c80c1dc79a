"""A gate for anything: highway layers, gated linear units, attention, mixtures of experts."""

from typing import Any

import torch
from torch import Tensor, nn

from gatecore.algebra import Gate
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.checkpoint import Stateful
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism
_CORE = "minimal"  # of all cores' slots, its gates are those that need no input gate of their own


def slots(mechanism: Mechanism, size: int) -> tuple[tuple[str, int], ...]:
    """The gate slots (name, width) of ``size`` gates: forget, then refine or the two masters."""
    return tuple(s for s in mechanism.slots(_CORE, size) if s[0] != "candidate")


def gate(
    logits: Tensor, mechanism: str | Mechanism = "UR", bias: Tensor | None = None, *, size: int
) -> Gate:
    """The effective gate of logits (..., features), as :class:`GateUnit` with these biases.

    Both sides have at least float32, whatever the logits' type.
    """
    mechanism = _mechanism(mechanism)
    widths = dict(slots(mechanism, size))
    if logits.shape[-1] != sum(widths.values()):
        raise ValueError(
            f"logits must have {sum(widths.values())} entries along the last axis "
            f"({', '.join(f'{k} {v}' for k, v in widths.items())}), got {logits.shape[-1]}"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    logits = logits.to(wide) if bias is None else logits.to(wide) + bias.to(wide)
    parts = dict(zip(widths, logits.split(list(widths.values()), -1), strict=True))
    return mechanism.gates(parts)[0]


class GateUnit(Stateful):
    """``size`` gates with any mechanism, of which it owns the biases.

    Called with logits (..., features) it returns a :class:`gatecore.Gate`: ``value`` (..., size)
    and ``complement``, neither of which is ever computed as one minus the other.

    Parameters
    ----------
    size : int
    mechanism : str or Mechanism
        "UR" needs two logits a gate (forget, refine), "standard" one; ``features`` is their number.
    device, dtype : of the biases

    Examples
    --------
    >>> unit = GateUnit(8, "UR")
    >>> carry, transform = unit(torch.zeros(3, unit.features))  # a highway layer's two gates
    >>> carry.shape
    torch.Size([3, 8])
    """

    core = "gate"

    def __init__(
        self,
        size: int,
        mechanism: str | Mechanism = "UR",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.size, self.mechanism = size, _mechanism(mechanism)
        self.features = sum(width for _, width in slots(self.mechanism, size))
        self.bias = nn.Parameter(torch.empty(self.features, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw the biases again, from torch's default generator."""
        if self.bias.is_meta:
            return
        drawn = self.mechanism.biases(_CORE, self.size, parameters.generator())
        kept = [torch.from_numpy(drawn[slot]) for slot, _ in slots(self.mechanism, self.size)]
        self.bias.copy_(torch.cat(kept))

    def forward(self, logits: Tensor) -> Gate:
        """The effective gates (..., size) of logits (..., features)."""
        return gate(logits, self.mechanism, self.bias, size=self.size)

    def extra_repr(self) -> str:
        return f"{self.size}, mechanism={self.mechanism.name!r}"
