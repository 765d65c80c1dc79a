"""``torch.nn.LSTMCell`` and ``GRUCell`` with any gate mechanism; and the minimal cell."""

from typing import Any

import torch
from torch import Tensor, nn

from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.checkpoint import Stateful
from gatecore.backends.torch.nn.recurrent import zoneout_amounts
from gatecore.backends.torch.sequence import stepping
from gatecore.backends.torch.sequence.precision import LOW, dtypes, no_autocast
from gatecore.backends.torch.sequence.signature import TORCH_SIGNATURES, signature
from gatecore.cells import CELLS
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism


class RecurrentCell(Stateful):
    """One step of a layer.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As for ``torch.nn.LSTMCell``.
    mechanism, zoneout, two_biases
        As for the layers.
    """

    core: str
    weight_ih: nn.Parameter

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        mechanism: str | Mechanism = "UR",
        zoneout: Any = 0.0,
        two_biases: bool | None = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self.mechanism = _mechanism(mechanism)
        self.zoneout = zoneout_amounts(self.core, zoneout)
        own = signature(self.core, self.mechanism) == TORCH_SIGNATURES.get(self.core)
        self.two_biases = own if two_biases is None else bool(two_biases)
        self._cell = CELLS[self.core](input_size, hidden_size, self.mechanism)
        for name, shape in parameters.shapes(self._cell, bool(bias)).items():
            value = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
            self.register_parameter(name, value)
            frozen = name == "bias_hh" and not self.two_biases and self.core != "gru"
            value.requires_grad_(not frozen)
        if not bias:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters again, from torch's default generator."""
        parameters.initialise(self._cell, dict(self.named_parameters(recurse=False)))

    def extra_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        text += "" if self.bias is True else f", bias={self.bias}"
        text += f", mechanism={self.mechanism.name!r}"
        return text + (f", zoneout={self.zoneout}" if any(self.zoneout) else "")

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """From the input (batch, input) or (input,) and the state to the next state."""
        self._check_dimensions(input, hx)
        batched = input.dim() == 2
        x = input if batched else input.unsqueeze(0)
        states = self._states(x, hx, batched)
        self._check_sizes(x, states)
        last = self._advance(x, states)
        return self._one(last if batched else tuple(s.squeeze(0) for s in last))

    def _check_dimensions(self, input: Tensor, hx: Any) -> None:
        kind = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{kind}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if hx is not None and hx.dim() not in (1, 2):
            raise ValueError(f"{kind}: Expected hidden to be 1D or 2D, got {hx.dim()}D instead")

    def _states(self, x: Tensor, hx: Any, batched: bool) -> tuple[Tensor, ...]:
        if hx is None:
            dtype = torch.float32 if x.dtype in LOW else x.dtype
            zeros = torch.zeros(x.shape[0], self.hidden_size, dtype=dtype, device=x.device)
            return (zeros,) * (2 if self.core == "lstm" else 1)
        states = tuple(hx) if self.core == "lstm" else (hx,)
        return states if batched else tuple(s.unsqueeze(0) for s in states)

    def _check_sizes(self, x: Tensor, states: tuple[Tensor, ...]) -> None:
        """What torch's kernels check, in their words."""
        if x.shape[1] != self.input_size:
            raise RuntimeError(
                f"input has inconsistent input_size: got {x.shape[1]} expected {self.input_size}"
            )
        for k, state in enumerate(states):
            if state.shape[0] != x.shape[0]:
                raise RuntimeError(
                    f"Input batch size {x.shape[0]} doesn't match hidden{k} batch size "
                    f"{state.shape[0]}"
                )
            if state.shape[1] != self.hidden_size:
                raise RuntimeError(
                    f"hidden{k} has inconsistent hidden_size: got {state.shape[1]}, expected "
                    f"{self.hidden_size}"
                )

    def _advance(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        compute, shown = dtypes(self.weight_ih)
        with no_autocast(x.device.type):
            held = dict(self.named_parameters(recurse=False))
            params = parameters.core_params(self._cell, held, self.two_biases, compute)
            states = tuple(s.to(compute) for s in states)
            projected = self._cell.project(params, x.to(compute))
            kept = self._amounts(projected)
            last = stepping.advance(self._cell, params, projected, states, None, kept)
        return (last[0].to(shown), *last[1:]) if self.core == "lstm" else last

    def _amounts(self, projected: Tensor) -> tuple[Any, ...] | None:
        if not any(self.zoneout):
            return None
        if not self.training:
            return self.zoneout
        shape = (projected.shape[0], self.hidden_size)
        return tuple(
            (torch.rand(shape, device=projected.device) < p).to(projected.dtype)
            for p in self.zoneout
        )

    def _one(self, states: tuple[Tensor, ...]) -> Any:
        return states if self.core == "lstm" else states[0]


class LSTMCell(RecurrentCell):
    """``torch.nn.LSTMCell`` with any gate mechanism.

    Examples
    --------
    >>> cell = LSTMCell(10, 20, mechanism="UR")
    >>> h, c = cell(torch.randn(3, 10))
    >>> h, c = cell(torch.randn(3, 10), (h, c))
    """

    core = "lstm"

    def _check_dimensions(self, input: Tensor, hx: Any) -> None:
        super()._check_dimensions(input, None)
        for k, state in enumerate(hx or ()):
            if state.dim() not in (1, 2):
                raise ValueError(
                    f"LSTMCell: Expected hx[{k}] to be 1D or 2D, got {state.dim()}D instead"
                )


class GRUCell(RecurrentCell):
    """``torch.nn.GRUCell`` with any gate mechanism.

    Examples
    --------
    >>> h = GRUCell(10, 20, mechanism="UR")(torch.randn(3, 10))
    """

    core = "gru"


class MinimalCell(RecurrentCell):
    """One step of :class:`Minimal`.

    Examples
    --------
    >>> h = MinimalCell(10, 20, mechanism="UR")(torch.randn(3, 10))
    """

    core = "minimal"
