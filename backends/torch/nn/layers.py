"""``torch.nn.LSTM`` and ``GRU`` with one more word, the mechanism; and the minimal gated layer.

Constructor, inputs, outputs, parameter names, and error texts are torch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn

from gatecore.backends.torch.nn.from_torch import from_torch
from gatecore.backends.torch.nn.recurrent import Recurrent
from gatecore.mechanisms import Mechanism


class LSTM(Recurrent):
    """``torch.nn.LSTM`` with any gate mechanism.

    Parameters
    ----------
    input_size, hidden_size, ...
        Those of ``torch.nn.LSTM`` in its order, then those of :class:`Recurrent` by keyword.

    Examples
    --------
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
    def from_lstm(
        cls, module: nn.LSTM, mechanism: str | Mechanism = "UR", **keywords: Any
    ) -> "LSTM":
        """An LSTM with the sizes of torch's ``module`` and what of its weights carries over.

        The slots of the mechanism that torch's has too are copied; ``initialised`` of the result
        names the others, which are drawn as in a new layer.
        """
        return from_torch(cls, module, mechanism, keep_weights=True, **keywords)

    def _ask_torch(self, proj_size: int, **sizes: Any) -> None:
        self._torch_class(**sizes, proj_size=proj_size, device="meta")

    def _batched_states(self, hx: Any, batched: bool) -> Any:
        expected, kind = (3, "batched") if batched else (2, "unbatched")
        if hx[0].dim() != expected or hx[1].dim() != expected:
            raise RuntimeError(
                f"For {kind} {expected}-D input, hx and cx should also be {expected}-D but got "
                f"({hx[0].dim()}-D, {hx[1].dim()}-D) tensors"
            )
        return hx if batched else (hx[0].unsqueeze(1), hx[1].unsqueeze(1))

    def _state_widths(self) -> tuple[int, ...]:
        return (self.proj_size or self.hidden_size, self.hidden_size)

    def _one(self, states: tuple[Tensor, ...]) -> Any:
        return states

    def _last_dtypes(self, last: tuple[Tensor, ...], shown: torch.dtype) -> tuple[Tensor, ...]:
        return last[0].to(shown), last[1]  # h is no sum: it may be rounded as the output is

    def _cells_wanted(self, return_cells: bool) -> bool:
        return bool(return_cells)


class GRU(Recurrent):
    """``torch.nn.GRU`` with any gate mechanism; the update gate is its forget gate.

    Examples
    --------
    >>> output, h = GRU(10, 20, mechanism="UR", batch_first=True)(torch.randn(3, 5, 10))
    >>> output.shape
    torch.Size([3, 5, 20])
    """

    core = "gru"
    _torch_class = nn.GRU

    @classmethod
    def from_gru(cls, module: nn.GRU, mechanism: str | Mechanism = "UR", **keywords: Any) -> "GRU":
        """A GRU with the sizes of torch's ``module`` and what of its weights carries over.

        As :meth:`LSTM.from_lstm`.
        """
        return from_torch(cls, module, mechanism, keep_weights=True, **keywords)


class Minimal(Recurrent):
    """The simplest gated layer, h' = h + (1 − g)(u − h), with torch's constructor and calls.

    Examples
    --------
    >>> output, h = Minimal(10, 20, mechanism="UR")(torch.randn(5, 3, 10))
    >>> h.shape
    torch.Size([1, 3, 20])
    """

    core = "minimal"
    _torch_class = nn.RNN
