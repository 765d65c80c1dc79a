"""The settings and parameters that recurrent layers and cells have in common."""

from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from gatecore import _checks, mechanisms
from gatecore.backends.torch.nn.checkpoint import Stateful, torch_compatible
from gatecore.backends.torch.nn.parameters import shapes
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

State = TypeVar("State", Tensor, tuple[Tensor, Tensor])


class RecurrentModule(Stateful, Generic[State]):
    """A module with a mechanism, zoneout, and torch's two biases.

    Parameters
    ----------
    mechanism : str or Mechanism
    zoneout : float or (float, float)
        Probabilities in [0, 1].
    two_biases : bool, optional
        Whether ``bias_hh`` is trained beside ``bias_ih``.
    """

    def __init__(self, mechanism: str | Mechanism, zoneout: Any, two_biases: bool | None) -> None:
        super().__init__()
        self.mechanism = mechanisms.mechanism(mechanism)
        self.zoneout = zoneout_probabilities(CELLS[self.core], zoneout)
        compatible = torch_compatible(self.core, self.mechanism)
        self.two_biases = compatible if two_biases is None else bool(two_biases)

    def _register(
        self, cell: Cell, bias: bool, proj_size: int = 0, suffix: str = "", **factory: Any
    ) -> dict[str, str]:
        """Register a cell's parameters, uninitialized; their names without and with the suffix."""
        names = {}
        for name, shape in shapes(cell, bias, proj_size).items():
            names[name] = name + suffix
            trained = name != "bias_hh" or self.two_biases or "bias_n" in cell.parameter_shapes()
            value = nn.Parameter(torch.empty(shape, **factory), requires_grad=trained)
            self.register_parameter(names[name], value)
        return names

    def _settings_repr(self) -> str:
        text = f", mechanism={self.mechanism.name!r}"
        return text + (f", zoneout={self.zoneout}" if any(self.zoneout) else "")


def zoneout_probabilities(cell: type[Cell], zoneout: Any) -> tuple[float, ...]:
    """A probability for each part of the cell's state, in the order (cell, hidden)."""
    count = len(cell.state_names)
    values = tuple(zoneout) if isinstance(zoneout, tuple | list) else (zoneout,) * count
    if len(values) != count:
        expected = "a number or a pair (cell, hidden)" if count > 1 else "a number"
        raise ValueError(f"zoneout must be {expected}, got {zoneout!r}")
    return tuple(_checks.probability("zoneout", value) for value in values)


def zoneout_mask(probability: float, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """A random mask in the dtype of ``like``: 1, with this probability, keeps the old value."""
    return (torch.rand(shape, device=like.device) < probability).to(like.dtype)


def round_states(states: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """States in the output's dtype, but for the last part, which accumulates over time.

    That is c of an LSTM and h of the others: a sum over 1e4 steps does not survive 8 bits.
    """
    return (*(part.to(dtype) for part in states[:-1]), states[-1])
