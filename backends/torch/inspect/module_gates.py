"""The forget gates of one call of a module, computed again from its arguments and its output.

Of torch's stacked layers, those below the last are run again.
"""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from gatecore.algebra import Gate
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.cells import RecurrentCell
from gatecore.backends.torch.nn.gate_unit import GateUnit
from gatecore.backends.torch.nn.layout import Dense, Lengths, Packed, Sequences
from gatecore.backends.torch.sequence.call import zero_states
from gatecore.backends.torch.sequence.precision import dtypes, no_autocast
from gatecore.cells import CELLS, Cell

# the name's suffix, gates (..., hidden), and which of (...) are within their sequence, None for all
Gates = Iterator[tuple[str, Gate, Tensor | None]]
Source = Callable[[Any, Any, Any, Any], Gates]  # of a module, its arguments and its output
Layout = Dense | Packed
Parts = tuple[Tensor, ...]  # of a state

_LAYERS = {nn.LSTM: "lstm", nn.GRU: "gru"}
_CELLS = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}
_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def source(module: nn.Module) -> Source | None:
    """The function that yields the gates of a call of this module, if it has any."""
    # torch's classes themselves, perhaps with parametrized weights: a subclass may do anything
    parametrized = parametrize.is_parametrized(module)
    kind: Any = type(module).__bases__[0] if parametrized else type(module)
    if isinstance(module, GateUnit):
        return lambda module, args, kwargs, output: iter([("", output, None)])
    if isinstance(module, RecurrentCell) or kind in _CELLS:
        return _cell_gates
    return _layer_gates if kind in _LAYERS else None


def suffix(k: int, bidirectional: bool) -> str:
    """The suffix of layer and direction ``k`` as torch's parameters have it: "l1_reverse"."""
    return f"l{k // 2}{'_reverse' * (k % 2)}" if bidirectional else f"l{k}"


def _cell_gates(module: Any, args: Any, kwargs: Any, output: Any) -> Gates:
    x, state = _arguments(args, kwargs)
    gated = isinstance(module, RecurrentCell)
    cell = module._cell if gated else _standard(module, module.input_size)
    dtype = dtypes(module.weight_ih)[0]
    with no_autocast(x.device.type):
        x = x.to(dtype).reshape(-1, cell.input_size)
        before = x.new_zeros(len(x), cell.hidden_size)
        if state is not None:
            before = cell.parts(state)[0].to(dtype).reshape(before.shape)
        weights = module._weights(0) if gated else _weights(module, "")
        two_biases = not gated or module.two_biases
        params = parameters.core_params(cell, weights, two_biases, dtype)
        yield "", parameters.step_gates(cell, params, x, before), None


def _layer_gates(module: Any, args: Any, kwargs: Any, output: Any) -> Gates:
    x, state = _arguments(args, kwargs)
    layout = Packed(x) if isinstance(x, PackedSequence) else Dense(x, module.batch_first)
    dtype = dtypes(module.weight_ih_l0)[0]
    dropout = bool(module.training and module.dropout)
    with no_autocast(layout.x.device.type):
        x, outputs = layout.x.to(dtype), layout.time_first(output[0]).to(dtype)
        starts = _initial_states(module, layout, x, state)
        for layer in range(module.num_layers):
            hidden = outputs
            if dropout or layer < module.num_layers - 1:
                hidden = _run_layer(module, layer, layout, x, starts)
            yield from _directions(module, layer, x, starts[0], hidden, layout.lengths)
            x = hidden


def _directions(module: Any, layer: int, x: Tensor, start: Tensor, hidden: Tensor,
                lengths: Lengths | None) -> Gates:  # fmt: skip
    cell, bounds = _standard(module, x.shape[-1]), Sequences(None, lengths)
    count = 2 if module.bidirectional else 1
    for direction, states in enumerate(hidden.chunk(count, -1)):
        k, inputs = layer * count + direction, x
        if direction:
            inputs, states = bounds.reverse(x), bounds.reverse(states)
        name = suffix(k, module.bidirectional)
        params = parameters.core_params(cell, _weights(module, f"_{name}"), True, x.dtype)
        gates = parameters.forget_gates(cell, params, inputs, start[k], states)
        yield name, gates, None if lengths is None else lengths.valid()


def _run_layer(module: Any, layer: int, layout: Layout, x: Tensor, starts: Parts) -> Tensor:
    """The hidden states (time, batch, directions · width) of one layer of torch's, by torch."""
    count = 2 if module.bidirectional else 1
    numbers = range(layer * count, (layer + 1) * count)
    names = [f"_{suffix(k, module.bidirectional)}" for k in numbers]
    weights = [w.to(x.dtype) for name in names for w in _weights(module, name).values()]
    states: Any = [start[numbers.start : numbers.stop].contiguous() for start in starts]
    run, states = (torch.lstm, states) if len(states) > 1 else (torch.gru, states[0])
    settings = (bool(module.bias), 1, 0.0, False, module.bidirectional)
    with warnings.catch_warnings():  # cuDNN copies weights that are a part of a larger chunk
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        if layout.batch_sizes is None:
            return run(x.contiguous(), states, weights, *settings, False)[0]
        data = layout.restore(x).data
        hidden = run(data, layout.batch_sizes, states, weights, *settings)[0]
    return layout.time_first(PackedSequence(hidden, layout.batch_sizes))


def _initial_states(module: Any, layout: Layout, x: Tensor, state: Any) -> Parts:
    cell = _standard(module, module.input_size)
    if state is not None:
        return tuple(part.to(x.dtype) for part in layout.states(cell.parts(state)))
    count = module.num_layers * (2 if module.bidirectional else 1)
    zeros = zero_states(cell, x, module.proj_size)
    return tuple(part.expand(count, *part.shape) for part in zeros)


def _standard(module: Any, input_size: int) -> Cell:
    """The cell that a layer or cell of torch computes."""
    core = next(core for kind, core in (_LAYERS | _CELLS).items() if isinstance(module, kind))
    return CELLS[core](input_size, module.hidden_size, "standard")


def _weights(module: Any, suffix: str) -> dict[str, Tensor]:
    """The parameters with this suffix by their names without it, in torch's order."""
    named = {name: getattr(module, name + suffix, None) for name in _PARAMETERS}
    return {name: value for name, value in named.items() if value is not None}


def _arguments(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The input and the state, by position or by name."""
    named = {**dict(zip(("input", "hx"), args, strict=False)), **kwargs}
    return named["input"], named.get("hx")
