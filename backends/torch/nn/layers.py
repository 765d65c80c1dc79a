"""``torch.nn.LSTM`` and ``GRU`` with gate mechanisms, and the minimal gated layer."""

from typing import Any, Self

from torch import Tensor, nn

from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.recurrent import Recurrent
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
