"""``torch.nn.LSTMCell`` and ``GRUCell`` with gate mechanisms, and the minimal cell."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, fx, nn

from gatecore import _checks
from gatecore.backends.torch.nn import base, parameters
from gatecore.backends.torch.nn.base import RecurrentModule, State, check_tensors
from gatecore.backends.torch.nn.layout import Tensors
from gatecore.backends.torch.sequence import one_step
from gatecore.backends.torch.sequence.implementation import check_memory
from gatecore.backends.torch.sequence.one_step import Step
from gatecore.backends.torch.sequence.precision import dtypes
from gatecore.cells import CELLS, Cell, MinGRU
from gatecore.mechanisms import Mechanism


class RecurrentCell(RecurrentModule[State]):
    """The base of :class:`LSTMCell`, :class:`GRUCell` and :class:`MinimalCell`: one step.

    ``input_size``, ``hidden_size``, ``bias``, ``device`` and ``dtype`` are as for
    ``torch.nn.LSTMCell``, whose parameter names the cell has; ``mechanism``, ``zoneout``,
    ``two_biases`` and ``layer_norm`` as for :class:`Recurrent`. ``last_impl`` is the implementation
    that ran the last call, "native" or "plain", or None. ValueError or TypeError if the mechanism
    is unknown, a size is below 1, or zoneout is outside [0, 1].
    """

    weight_ih: Tensor
    last_impl: str | None = None
    _torch_class: ClassVar[Any]

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
        dtype: Any = None, *, mechanism: str | Mechanism = "UR", zoneout: Any = 0.0,
        two_biases: bool = True, layer_norm: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(mechanism, zoneout, two_biases, layer_norm)
        self._cell = cell = self._make_cell(input_size, hidden_size)
        self.input_size, self.hidden_size = cell.input_size, cell.hidden_size
        self.bias = bias = _checks.plain(bias)
        self._register(self._cell, bool(bias), device=device, dtype=dtype)
        for name in () if bias else ("bias_ih", "bias_hh")[: 1 + self._cell.recurrent]:
            self.register_parameter(name, None)
        self.reset_parameters()

    def _make_cell(self, input_size: int, hidden_size: int) -> Cell:
        return CELLS[self.core](input_size, hidden_size, self.mechanism, self.layer_norm)

    def extra_repr(self) -> str:
        bias = "" if self.bias is True else f", bias={self.bias}"
        return f"{self.input_size}, {self.hidden_size}{bias}{self._settings_repr()}"

    def forward(self, input: Tensor, hx: State | None = None) -> State:
        """The next state, from input (batch, input) or (input,).

        ``hx`` is the state (batch, hidden) or (hidden,), by default zeros: h, for the LSTM (h, c).
        ValueError or RuntimeError for inputs and states that torch's cells refuse, in their words.
        """
        if isinstance(input, fx.Proxy):
            return self._fx_node(input, *(() if hx is None else (hx,)))
        states: tuple[Any, ...] = () if hx is None else self._cell.parts(hx, "hx")
        if not self._fits(input, states):
            self._check(input, states)
        batched = input.dim() == 2
        if not batched:
            input, states = input.unsqueeze(0), tuple(part.unsqueeze(0) for part in states)
        last = self._advance(input, states)
        return self._cell.state(last if batched else tuple(part.squeeze(0) for part in last))

    def _fits(self, input: Any, states: tuple[Any, ...]) -> bool:
        """Whether these are what most calls have: float32 tensors (batch, width)."""
        if type(input) is not Tensor or input.dtype is not torch.float32 or input.dim() != 2:
            return False
        batch, inputs = input.shape
        for state in states:
            if type(state) is not Tensor or state.dtype is not torch.float32:
                return False
            if state.shape != (batch, self.hidden_size):
                return False
        return bool(inputs == self.input_size)

    def _check(self, input: Any, states: tuple[Any, ...]) -> None:
        """Raise what torch's cells raise for such an input and states, in their words."""
        check_tensors("input", input)
        check_tensors("hx", *states)
        check_memory(input=(input,), hx=states)
        for name, value in (("input", input), *(("hx", part) for part in states)):
            if not value.is_floating_point():
                raise TypeError(f"{name} must be floating, got {value.dtype}: convert it")
        fits = input.dim() in (1, 2) and input.shape[-1] == self.input_size
        if not fits or any(part.shape != (*input.shape[:-1], self.hidden_size) for part in states):
            factory: dict[str, Any] = {"device": "meta", "dtype": input.dtype}
            cell = self._torch_class(self.input_size, self.hidden_size, **factory)
            parts = [part.to(**factory) for part in states]
            # raises what torch's cells raise
            cell(input.to("meta"), self._cell.state(parts) if parts else None)

    if TYPE_CHECKING:
        __call__ = forward

    def _advance(self, x: Tensor, states: Tensors) -> Tensors:
        weights = self._weights(0)
        compute, dtype = dtypes(weights["weight_ih"])
        if x.dtype is not compute or weights["weight_ih"].dtype is not compute:
            x, weights = x.to(compute), {k: w.to(compute) for k, w in weights.items()}
        for state in states:
            if state.dtype is not compute:
                states = tuple(part.to(compute) for part in states)
                break
        arguments = self._zoneout(x), self.two_biases, parameters.core_params
        last, impl = one_step.run(Step(self._cell, x, weights, states, *arguments))
        self.__dict__["last_impl"] = impl  # past Module.__setattr__, which is slow
        return last if dtype == compute else base.round_states(last, dtype)

    def _zoneout(self, x: Tensor) -> tuple[Any, ...] | None:
        """Masks while training, else probabilities; in the order (cell, hidden) of an LSTM."""
        if not any(self.zoneout):
            return None
        if not self.training:
            return self.zoneout
        shape = (x.shape[0], self.hidden_size)
        return tuple(base.zoneout_mask(p, shape, x) if p else 0.0 for p in self.zoneout)


class LSTMCell(RecurrentCell[tuple[Tensor, Tensor]]):
    """``torch.nn.LSTMCell`` with any gate mechanism (equations 2-7, 9-15), of state (h, c).

    Parameters and errors are those of :class:`RecurrentCell`.

    >>> cell = LSTMCell(10, 20, mechanism="UR")
    >>> h, c = cell(torch.randn(3, 10))
    >>> h, c = cell(torch.randn(3, 10), (h, c))
    """

    core = "lstm"
    _torch_class = nn.LSTMCell


class GRUCell(RecurrentCell[Tensor]):
    """``torch.nn.GRUCell`` with any gate mechanism, of state h: one step of :class:`GRU`.

    Parameters and errors are those of :class:`RecurrentCell`.

    >>> GRUCell(10, 20, mechanism="UR")(torch.randn(3, 10)).shape
    torch.Size([3, 20])
    """

    core = "gru"
    _torch_class = nn.GRUCell


class MinimalCell(RecurrentCell[Tensor]):
    """The minimal gated cell, of state h: one step of :class:`Minimal`.

    Parameters and errors are those of :class:`RecurrentCell`.

    >>> MinimalCell(10, 20, mechanism="UR")(torch.randn(3, 10)).shape
    torch.Size([3, 20])
    """

    core = "minimal"
    _torch_class = nn.RNNCell


class MinGRUCell(RecurrentCell[Tensor]):
    """One step of :class:`gatecore.backends.torch.MinGRU`, of state h.

    Parameters are ``weight_ih`` and ``bias_ih``, with ``layer_norm`` also ``norm_ih``. Arguments
    and errors are those of :class:`RecurrentCell` but for ``two_biases``; ``candidate`` is "linear"
    or "tanh".

    >>> MinGRUCell(10, 20, mechanism="UR")(torch.randn(3, 10)).shape
    torch.Size([3, 20])
    """

    core = "mingru"
    _torch_class = nn.RNNCell

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None,
        dtype: Any = None, *, mechanism: str | Mechanism = "UR", candidate: str = "linear",
        zoneout: Any = 0.0, layer_norm: bool = False,
    ) -> None:  # fmt: skip
        self.candidate = candidate
        super().__init__(input_size, hidden_size, bias, device, dtype, mechanism=mechanism,
                         zoneout=zoneout, two_biases=False, layer_norm=layer_norm)  # fmt: skip

    def _make_cell(self, input_size: int, hidden_size: int) -> Cell:
        settings = self.mechanism, self.layer_norm
        return MinGRU(input_size, hidden_size, *settings, candidate=self.candidate)
