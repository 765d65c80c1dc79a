"""Calls of layers and cells with the types that a type checker sees; checked by test_typing."""

from typing import assert_type

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatecore.backends.torch import GRU, LSTM, GRUCell, LSTMCell, Minimal, MinimalCell, gru, lstm

Pair = tuple[Tensor, Tensor]


def lstm_layers(layer: LSTM, x: Tensor, packed: PackedSequence, h: Tensor) -> None:
    """The state is a pair (h, c), the output as the input."""
    assert_type(layer(x), tuple[Tensor, Pair])
    assert_type(layer(packed), tuple[PackedSequence, Pair])
    assert_type(layer.forward(x, (h, h), resets=h), tuple[Tensor, Pair])
    assert_type(layer(x, return_cells=True), tuple[Pair, Pair])
    assert_type(
        layer(packed, return_cells=True), tuple[tuple[PackedSequence, PackedSequence], Pair]
    )
    layer(x, h)  # type: ignore[call-overload]  # a state without c


def other_layers(gru: GRU, minimal: Minimal, x: Tensor, packed: PackedSequence, h: Tensor) -> None:
    """The state is h."""
    assert_type(gru(x, h), tuple[Tensor, Tensor])
    assert_type(gru(packed), tuple[PackedSequence, Tensor])
    assert_type(minimal(x), tuple[Tensor, Tensor])
    assert_type(minimal.forward(packed, h), tuple[PackedSequence, Tensor])
    gru(x, (h, h))  # type: ignore[call-overload]  # a state with c
    minimal(x.tolist())  # type: ignore[call-overload]  # no tensor


def cells(first: LSTMCell, second: GRUCell, third: MinimalCell, x: Tensor, h: Tensor) -> None:
    """Cells return the next state."""
    assert_type(first(x), Pair)
    assert_type(second(x, h), Tensor)
    assert_type(third(x, h), Tensor)
    second(x, (h, h))  # type: ignore[arg-type]


def functions(params: dict[str, Tensor], x: Tensor) -> None:
    """Functions return what layers do."""
    assert_type(lstm(params, x)[1], Pair)
    assert_type(gru(params, x), tuple[Tensor, Tensor])


def converted(layer: nn.LSTM) -> None:
    """A converted layer is of gatecore's class."""
    assert_type(LSTM.from_lstm(layer), LSTM)
