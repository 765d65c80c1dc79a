"""``torch.nn.LSTMCell`` and ``GRUCell`` with gate mechanisms, and the minimal cell."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.base import RecurrentModule, State, round_states, zoneout_mask
from gatecore.backends.torch.sequence import stepping
from gatecore.backends.torch.sequence.precision import LOW, dtypes, no_autocast
from gatecore.cells import CELLS
from gatecore.mechanisms import Mechanism

Tensors = tuple[Tensor, ...]


class RecurrentCell(RecurrentModule[State]):
    """The base of :class:`LSTMCell`, :class:`GRUCell` and :class:`MinimalCell`: one step.

    Parameters
    ----------
    input_size, hidden_size, bias, device, dtype
        As for ``torch.nn.LSTMCell``.
    mechanism, zoneout, two_biases
        As for the layers.
    """

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
        super().__init__(mechanism, zoneout, two_biases)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        self._cell = CELLS[self.core](input_size, hidden_size, self.mechanism)
        self._register(self._cell, bool(bias), device=device, dtype=dtype)
        if not bias:
            self.register_parameter("bias_ih", None)
            self.register_parameter("bias_hh", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Re-initialize all parameters, from torch's default generator."""
        parameters.initialise(self._cell, dict(self.named_parameters(recurse=False)))

    def extra_repr(self) -> str:
        bias = "" if self.bias is True else f", bias={self.bias}"
        return f"{self.input_size}, {self.hidden_size}{bias}{self._settings_repr()}"

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """The next state.

        Parameters
        ----------
        input : Tensor (batch, input) or (input,)
        hx : (h, c) or h, optional
            The state (batch, hidden) or (hidden,), by default zeros: a pair for the LSTM.

        Raises
        ------
        RuntimeError, ValueError
            The input or state has another shape than the cell's, in torch's words.
        """
        states = () if hx is None else self._cell.parts(hx)
        self._check_dimensions(input, states)
        batched = input.dim() == 2
        if not batched:
            input, states = input.unsqueeze(0), tuple(part.unsqueeze(0) for part in states)
        states = states or self._zeros(input)
        self._check_sizes(input, states)
        last = self._advance(input, states)
        return self._cell.state(last if batched else tuple(part.squeeze(0) for part in last))

    if TYPE_CHECKING:
        __call__ = forward

    def _check_dimensions(self, input: Tensor, states: Tensors) -> None:
        """Raise what torch's cells raise for such axes, in their words."""
        named = [("input", input)]
        named += [(f"hx[{k}]" if len(states) > 1 else "hidden", s) for k, s in enumerate(states)]
        for name, tensor in named:
            if tensor.dim() not in (1, 2):
                raise ValueError(
                    f"{type(self).__name__}: Expected {name} to be 1D or 2D, got {tensor.dim()}D "
                    "instead"
                )

    def _zeros(self, x: Tensor) -> Tensors:
        dtype = torch.float32 if x.dtype in LOW else x.dtype
        zeros = torch.zeros(x.shape[0], self.hidden_size, dtype=dtype, device=x.device)
        return (zeros,) * len(self._cell.state_names)

    def _check_sizes(self, x: Tensor, states: Tensors) -> None:
        """Raise what torch's kernels raise for such sizes, in their words."""
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

    def _advance(self, x: Tensor, states: Tensors) -> Tensors:
        compute, dtype = dtypes(self.weight_ih)
        with no_autocast(x.device.type):
            weights = dict(self.named_parameters(recurse=False))
            params = parameters.core_params(self._cell, weights, self.two_biases, compute)
            states = tuple(part.to(compute) for part in states)
            projected = self._cell.project(params, x.to(compute))
            zoneout = self._zoneout(projected)
            last = stepping.advance(self._cell, params, projected, states, None, zoneout)
        return round_states(last, dtype)

    def _zoneout(self, projected: Tensor) -> tuple[Any, ...] | None:
        """Masks while training, else probabilities; in the order (cell, hidden) of an LSTM."""
        if not any(self.zoneout):
            return None
        if not self.training:
            return self.zoneout
        shape = (projected.shape[0], self.hidden_size)
        return tuple(zoneout_mask(probability, shape, projected) for probability in self.zoneout)


class LSTMCell(RecurrentCell[tuple[Tensor, Tensor]]):
    """``torch.nn.LSTMCell`` with any gate mechanism.

    Examples
    --------
    >>> cell = LSTMCell(10, 20, mechanism="UR")
    >>> h, c = cell(torch.randn(3, 10))
    >>> h, c = cell(torch.randn(3, 10), (h, c))
    """

    core = "lstm"


class GRUCell(RecurrentCell[Tensor]):
    """``torch.nn.GRUCell`` with any gate mechanism.

    Examples
    --------
    >>> h = GRUCell(10, 20, mechanism="UR")(torch.randn(3, 10))
    """

    core = "gru"


class MinimalCell(RecurrentCell[Tensor]):
    """One step of :class:`Minimal`.

    Examples
    --------
    >>> h = MinimalCell(10, 20, mechanism="UR")(torch.randn(3, 10))
    """

    core = "minimal"
