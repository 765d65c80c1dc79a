"""``torch.nn.LSTM`` and ``GRU`` with gate mechanisms, and the minimal gated layer.

Constructor, inputs, outputs, parameter names, and error texts are torch's own.
"""

from typing import Any, Self

from torch import Tensor, nn

from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.recurrent import Recurrent
from gatecore.mechanisms import Mechanism


class LSTM(Recurrent[tuple[Tensor, Tensor]]):
    """``torch.nn.LSTM`` with any gate mechanism.

    Parameters
    ----------
    input_size, hidden_size, ...
        Those of ``torch.nn.LSTM`` in its order, then those of :class:`Recurrent` by keyword.

    Examples
    --------
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
        """An LSTM with the sizes of torch's ``module`` and what of its weights carries over.

        The slots of the mechanism that torch's has too are copied; ``initialised`` of the result
        names the others, which are drawn as in a new layer.
        """
        return from_torch(cls, module, mechanism, keep_weights=True, **keywords)


class GRU(Recurrent[Tensor]):
    """``torch.nn.GRU`` with any gate mechanism; the update gate is its forget gate.

    Examples
    --------
    >>> import torch
    >>> output, h = GRU(10, 20, mechanism="UR", batch_first=True)(torch.randn(3, 5, 10))
    >>> output.shape
    torch.Size([3, 5, 20])
    """

    core = "gru"
    _torch_class = nn.GRU

    @classmethod
    def from_gru(cls, module: nn.GRU, mechanism: str | Mechanism = "UR", **keywords: Any) -> Self:
        """A GRU with the sizes of torch's ``module`` and what of its weights carries over.

        As :meth:`LSTM.from_lstm`.
        """
        return from_torch(cls, module, mechanism, keep_weights=True, **keywords)


class Minimal(Recurrent[Tensor]):
    """The simplest gated layer, h' = h + (1 − g)(u − h), with torch's constructor and calls.

    Examples
    --------
    >>> import torch
    >>> output, h = Minimal(10, 20, mechanism="UR")(torch.randn(5, 3, 10))
    >>> h.shape
    torch.Size([1, 3, 20])
    """

    core = "minimal"
    _torch_class = nn.RNN
