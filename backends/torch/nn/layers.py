"""``torch.nn.LSTM`` and ``GRU`` with gate mechanisms, and the minimal gated layer."""

from typing import Any, Self

from torch import Tensor, nn

from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.recurrent import Recurrent
from gatecore.cells import MinGRU as MinGRUEquations
from gatecore.mechanisms import Mechanism


class LSTM(Recurrent[tuple[Tensor, Tensor]]):
    """``torch.nn.LSTM`` with any gate mechanism (equations 2-7, 9-15), of state (h, c).

    Parameters, attributes and errors are those of :class:`Recurrent`.

    >>> import torch
    >>> layer = LSTM(10, 20, 2, mechanism="UR")
    >>> output, (h, c) = layer(torch.randn(5, 3, 10))
    >>> output.shape, h.shape
    (torch.Size([5, 3, 20]), torch.Size([2, 3, 20]))
    """

    core = "lstm"
    _torch_class = nn.LSTM
    check_forward_args = nn.LSTM.check_forward_args
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden

    @classmethod
    def from_lstm(cls, module: nn.LSTM, mechanism: str | Mechanism = "UR", **keywords: Any) -> Self:
        """An LSTM of the sizes of torch's ``module``, with its weights where they mean the same.

        The weights of the slots that both mechanisms have are copied; ``initialised`` names the
        other slots, which are initialized as in a new layer. ``keywords`` are further parameters of
        :class:`Recurrent`, from ``zoneout`` on.

        >>> LSTM.from_lstm(nn.LSTM(10, 20), mechanism="UR").initialised
        ('refine',)
        """
        return from_torch(cls, module, mechanism, keep_weights=True, **keywords)


class GRU(Recurrent[Tensor]):
    """``torch.nn.GRU`` with any gate mechanism, of state h.

    n = tanh(Wx + b + q∘(Uh + b_n)), h' = g·h + (1 − g)·n: the update gate is the mechanism's forget
    gate. Parameters, attributes and errors are those of :class:`Recurrent`.

    >>> import torch
    >>> output, h = GRU(10, 20, mechanism="UR", batch_first=True)(torch.randn(3, 5, 10))
    >>> output.shape
    torch.Size([3, 5, 20])
    """

    core = "gru"
    _torch_class = nn.GRU

    @classmethod
    def from_gru(cls, module: nn.GRU, mechanism: str | Mechanism = "UR", **keywords: Any) -> Self:
        """A GRU of the sizes and weights of torch's ``module``, as :meth:`LSTM.from_lstm`.

        >>> GRU.from_gru(nn.GRU(10, 20), mechanism="standard").initialised
        ()
        """
        return from_torch(cls, module, mechanism, keep_weights=True, **keywords)


class Minimal(Recurrent[Tensor]):
    """The minimal gated layer h' = g·h + (1 − g)·tanh(Wx + Uh + b) (footnote 4; JANET), of state h.

    Parameters, attributes and errors are those of :class:`Recurrent`.

    >>> import torch
    >>> output, h = Minimal(10, 20, mechanism="UR")(torch.randn(5, 3, 10))
    >>> h.shape
    torch.Size([1, 3, 20])
    """

    core = "minimal"
    _torch_class = nn.RNN


class MinGRU(Recurrent[Tensor]):
    """The linear recurrence h' = g·h + (1 − g)·u with gates and candidate u of x alone, of state h.

    It computes all steps at once (Feng et al. 2024; Martin & Cundy 2018). The ``candidate`` is
    u = Wx + b if "linear", its tanh if "tanh". Parameters are ``weight_ih_l0`` (rows, input) and
    ``bias_ih_l0`` (rows,). The arguments are those of ``torch.nn.GRU``, and ``zoneout`` and
    ``impl`` of :class:`Recurrent`, which may also be "parallel": an associative scan over time, in
    O(log T) steps. ``layer_norm`` normalizes the product W x over all its rows, with the gain
    ``norm_ih_l0`` (rows,); the bias is added after it. Attributes and errors are those of
    :class:`Recurrent`.

    >>> import torch
    >>> output, h = MinGRU(10, 20, num_layers=2, mechanism="UR")(torch.randn(1000, 3, 10))
    >>> output.shape, h.shape
    (torch.Size([1000, 3, 20]), torch.Size([2, 3, 20]))
    """

    core = "mingru"
    _torch_class = nn.GRU

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        device: Any = None, dtype: Any = None, *, mechanism: str | Mechanism = "UR",
        candidate: str = "linear", zoneout: Any = 0.0, layer_norm: bool = False,
        impl: str = "auto",
    ) -> None:  # fmt: skip
        self.candidate = candidate
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            device=device, dtype=dtype, mechanism=mechanism, zoneout=zoneout, two_biases=False,
            layer_norm=layer_norm, impl=impl,
        )  # fmt: skip

    def _make_cell(self, input_size: int, hidden_size: int) -> MinGRUEquations:
        settings = self.mechanism, self.layer_norm
        return MinGRUEquations(input_size, hidden_size, *settings, candidate=self.candidate)
