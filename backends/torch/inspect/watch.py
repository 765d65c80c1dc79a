"""What the gates of anyone's model do while it runs, collected by hooks.

Layers and cells of gatecore and of torch itself, and :class:`GateUnit`.
"""

import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence

from gatecore._checks import integer, number
from gatecore.algebra import Gate, timescale
from gatecore.backends.torch.inspect.gate_statistics import forget_gates, step_gates
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.cells import RecurrentCell
from gatecore.backends.torch.nn.gate_unit import GateUnit
from gatecore.backends.torch.nn.packed import Lengths, reverse
from gatecore.backends.torch.nn.recurrent import Recurrent
from gatecore.backends.torch.sequence.precision import LOW, no_autocast
from gatecore.cells import CELLS, Cell

_LAYERS = {nn.LSTM: "lstm", nn.GRU: "gru"}
_CELLS = {nn.LSTMCell: "lstm", nn.GRUCell: "gru"}

# suffix of a name, gates (..., hidden), and which of (...) count, if not all
Seen = tuple[str, Gate, Tensor | None]
Find = Callable[[Any, Any, Any, Any], Iterable[Seen]]  # of a module, its arguments, its output


class Saturation(NamedTuple):
    """Fractions of each unit's activations, arrays (hidden,) in [0, 1].

    ``shut``: the gate is nearly 0 and forgets; ``open``: it is nearly 1 and remembers.
    """

    shut: np.ndarray
    open: np.ndarray


def watch(model: nn.Module, *, every: int = 1, saturated: float = 0.1) -> "Watch":
    """Collect the forget gates of a model's recurrent layers whenever it runs.

    Watched are gatecore's layers, cells and :class:`GateUnit`, and ``torch.nn.LSTM``, ``GRU``,
    ``LSTMCell`` and ``GRUCell``: of a GRU the update gate, which is its forget gate. The model
    computes and learns what it did before. Nothing is kept but sums over time and batch.

    Of torch's own layers the gates are computed anew from inputs and outputs; those below the last
    of a stack are run again, and where dropout between them is active the gates of the whole stack
    are those without it. Steps beyond the end of a packed sequence do not count.

    Parameters
    ----------
    model : nn.Module
    every : int
        Take every so-manieth call of each layer, the first one included.
    saturated : float in (0, 0.5]
        A gate below this is counted as shut, one whose complement is below it as open.

    Returns
    -------
    Watch
        Also a context manager, which takes the hooks off at its end.

    Raises
    ------
    ValueError
        The model has nothing to watch.

    Examples
    --------
    >>> model = nn.Sequential(nn.LSTM(3, 8, num_layers=2))
    >>> with watch(model) as gates:
    ...     output, state = model(torch.randn(20, 4, 3))
    >>> {name: gate.value.shape for name, gate in gates.means().items()}
    {'0.l0': (8,), '0.l1': (8,)}
    >>> gates.timescales()["0.l1"].shape, gates.saturation()["0.l1"].open.shape
    ((8,), (8,))
    """
    return Watch(model, every, saturated)


class Watch:
    """The gates seen so far; made by :func:`watch`.

    Names are those of the model's modules. A layer adds ``.l0``, ``.l1``, … and ``_reverse`` as
    torch's parameters do; ``unwatched`` names recurrent modules of a class that is not known.
    """

    def __init__(self, model: nn.Module, every: int, saturated: float) -> None:
        self.every = integer("every", every)
        self.saturated = number("saturated", saturated)
        if not 0 < self.saturated <= 0.5:
            raise ValueError(f"saturated must be in (0, 0.5], got {saturated!r}")
        self._seen: dict[str, _Sums] = {}
        self._calls: dict[str, int] = {}
        self._undo: list[Callable[[], None]] = []
        self.unwatched: tuple[str, ...] = ()
        for name, module in model.named_modules():
            self._attach(name, module)
        if not self._undo:
            others = f" ({', '.join(self.unwatched)} may compute anything)" * bool(self.unwatched)
            raise ValueError(
                f"model has no gates to watch: {type(model).__name__} holds no LSTM, GRU or "
                f"Minimal layer or cell and no GateUnit{others}"
            )

    def means(self) -> dict[str, Gate]:
        """The mean forget gate of each unit and its mean complement: float64 NumPy (hidden,)."""
        return {name: seen.mean() for name, seen in self._seen.items()}

    def timescales(self) -> dict[str, np.ndarray]:
        """1/(mean complement) of each unit, in steps: float64 NumPy (hidden,)."""
        return {name: timescale(gate) for name, gate in self.means().items()}

    def saturation(self) -> dict[str, Saturation]:
        """The fractions of each unit's activations near 0 and near 1."""
        return {name: seen.saturation() for name, seen in self._seen.items()}

    def counts(self) -> dict[str, int]:
        """How many activations of each unit went into the means."""
        return {name: int(seen.count) for name, seen in self._seen.items()}

    def clear(self) -> None:
        """Forget what was seen, and go on watching."""
        self._seen.clear()
        self._calls.clear()

    def remove(self) -> None:
        """Take the hooks off; what was seen stays."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: Any) -> None:
        self.remove()

    def _attach(self, name: str, module: nn.Module) -> None:
        if isinstance(module, Recurrent):
            self._observe(name, module)
        elif isinstance(module, RecurrentCell):
            self._hook(name, module, _own_cell)
        elif isinstance(module, GateUnit):
            self._hook(name, module, _gate_unit)
        elif _known(module, _LAYERS):
            self._hook(name, module, _torch_layer)
        elif _known(module, _CELLS):
            self._hook(name, module, _torch_cell)
        elif isinstance(module, nn.RNNBase | nn.RNNCellBase):
            self.unwatched += (name or type(module).__name__,)

    def _hook(self, name: str, module: nn.Module, find: Find) -> None:
        @torch.compiler.disable
        @torch.no_grad()
        def hook(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if self._due(name):
                for suffix, gate, valid in find(module, args, kwargs, output):
                    self._add(_joined(name, suffix), gate, valid)

        self._undo.append(module.register_forward_hook(hook, with_kwargs=True).remove)

    def _observe(self, name: str, module: Recurrent) -> None:
        """gatecore's layers show each layer and direction as it was computed."""

        @torch.compiler.disable
        @torch.no_grad()
        def observer(
            k: int, params: dict[str, Tensor], x: Tensor, start: Tensor, hidden: Tensor,
            resets: Tensor | None, lengths: Lengths | None,
        ) -> None:  # fmt: skip
            full = _joined(name, _suffix(k, module.bidirectional))
            if self._due(full):
                gate = forget_gates(module._cells[k], params, x, start, hidden, resets)
                self._add(full, gate, _valid(lengths))

        def undo() -> None:
            module.observers = tuple(o for o in module.observers if o is not observer)

        module.observers += (observer,)
        self._undo.append(undo)

    def _due(self, name: str) -> bool:
        calls = self._calls.get(name, 0)
        self._calls[name] = calls + 1
        return calls % self.every == 0

    def _add(self, name: str, gate: Gate, valid: Tensor | None) -> None:
        sums = _Sums.of(gate, valid, self.saturated)
        self._seen[name] = self._seen[name] + sums if name in self._seen else sums


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Sums over all axes but the last, (hidden,) each, where the model is."""

    value: Tensor
    complement: Tensor
    shut: Tensor
    open: Tensor
    count: Any  # a number, or a tensor without axes

    @classmethod
    def of(cls, gate: Gate, valid: Tensor | None, saturated: float) -> "_Sums":
        value, complement = (side.detach().reshape(-1, side.shape[-1]) for side in gate)
        if valid is not None:
            value, complement = value[valid.flatten()], complement[valid.flatten()]
        # float64, in which counts beyond 2^24 and long timescales stay exact; MPS has none
        dtype = torch.float32 if value.device.type == "mps" else torch.float64
        parts = (value, complement, value < saturated, complement < saturated)
        sums = [part.sum(0, dtype=dtype) for part in parts]
        return cls(sums[0], sums[1], sums[2], sums[3], value.shape[0])

    def __add__(self, other: "_Sums") -> "_Sums":
        # not in place: tensors made in inference mode could not be changed outside it
        mine, theirs = dataclasses.astuple(self), dataclasses.astuple(other)
        return _Sums(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def mean(self) -> Gate:
        return Gate(*((side / self.count).cpu().numpy() for side in (self.value, self.complement)))

    def saturation(self) -> Saturation:
        return Saturation(*((side / self.count).cpu().numpy() for side in (self.shut, self.open)))


def _known(module: nn.Module, kinds: dict[Any, str]) -> bool:
    """Whether it is of one of these very classes, or is that but for parametrized weights."""
    plain = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    return plain in kinds


def _core(module: nn.Module) -> str:
    return next(core for kind, core in (_LAYERS | _CELLS).items() if isinstance(module, kind))


def _gate_unit(module: Any, args: Any, kwargs: Any, output: Gate) -> Iterator[Seen]:
    yield "", output, None


def _own_cell(module: Any, args: Any, kwargs: Any, output: Any) -> Iterator[Seen]:
    return _cell(module, module._cell, module.two_biases, args, kwargs)


def _torch_cell(module: Any, args: Any, kwargs: Any, output: Any) -> Iterator[Seen]:
    cell = CELLS[_core(module)](module.input_size, module.hidden_size, "standard")
    return _cell(module, cell, True, args, kwargs)


def _cell(module: Any, cell: Cell, two_biases: bool, args: Any, kwargs: Any) -> Iterator[Seen]:
    x, state = _arguments(args, kwargs)
    dtype = _compute(module.weight_ih)
    with no_autocast(x.device.type):
        x = x.to(dtype).reshape(-1, cell.input_size)
        hidden = state[0] if cell.core == "lstm" and state is not None else state
        shape = (x.shape[0], cell.hidden_size)
        before = x.new_zeros(shape) if hidden is None else hidden.to(dtype).reshape(shape)
        own = {name: getattr(module, name) for name in _PARAMETERS if hasattr(module, name)}
        params = parameters.core_params(cell, own, two_biases, dtype)
        yield "", step_gates(cell, params, x, before), None


def _torch_layer(module: Any, args: Any, kwargs: Any, output: Any) -> Iterator[Seen]:
    """Layer by layer: the hidden states of the last are the output, others are computed again."""
    (x, states), lengths, packed = _arguments(args, kwargs), None, None
    hidden = output[0]
    dtype = _compute(module.weight_ih_l0)
    states = (states,) if isinstance(states, Tensor) else states
    with no_autocast(getattr(x, "data", x).device.type):
        if isinstance(x, PackedSequence):
            packed, (x, lengths), (hidden, _) = x, Lengths.unpack(x), Lengths.unpack(hidden)
            if states is not None and packed.sorted_indices is not None:
                states = tuple(s.index_select(1, packed.sorted_indices) for s in states)
        else:
            x, hidden, states = _time_first(module, x, hidden, states)
        x, hidden = x.to(dtype), hidden.to(dtype)
        starts = _starts(module, x, states)
        again = bool(module.training and module.dropout)
        for layer in range(module.num_layers):
            if again or layer < module.num_layers - 1:
                states_now = _run_layer(module, layer, x, starts, packed, lengths)
            else:
                states_now = hidden
            yield from _directions(module, layer, x, starts[0], states_now, lengths)
            x = states_now


def _directions(
    module: Any, layer: int, x: Tensor, start: Tensor, hidden: Tensor, lengths: Lengths | None
) -> Iterator[Seen]:
    count = 2 if module.bidirectional else 1
    cell = CELLS[_core(module)](x.shape[-1], module.hidden_size, "standard")
    for direction, states in enumerate(hidden.chunk(count, -1)):
        k = layer * count + direction
        suffix = _suffix(k, module.bidirectional)
        own = _weights(module, suffix)
        params = parameters.core_params(cell, own, True, x.dtype)
        inputs = reverse(x, lengths) if direction else x
        states = reverse(states, lengths) if direction else states
        yield suffix, forget_gates(cell, params, inputs, start[k], states), _valid(lengths)


def _run_layer(
    module: Any, layer: int, x: Tensor, starts: tuple[Tensor, ...], packed: Any, lengths: Any
) -> Tensor:
    """The hidden states (time, batch, directions · width) of one layer of torch's, by torch."""
    count = 2 if module.bidirectional else 1
    here = slice(layer * count, (layer + 1) * count)
    weights = [
        weight.to(x.dtype)
        for k in range(here.start, here.stop)
        for weight in _weights(module, _suffix(k, module.bidirectional)).values()
    ]
    run: Any = torch.lstm if _core(module) == "lstm" else torch.gru
    settings = (bool(module.bias), 1, 0.0, False, module.bidirectional)
    states: Any = [s[here].contiguous() for s in starts]
    states = states if len(states) > 1 else states[0]
    with warnings.catch_warnings():  # cuDNN copies weights that are a part of a larger chunk
        warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous")
        if packed is None:
            return run(x.contiguous(), states, weights, *settings, False)[0]
        data = lengths.pack(x, packed).data
        out = run(data, packed.batch_sizes, states, weights, *settings)[0]
    return Lengths.unpack(PackedSequence(out, packed.batch_sizes))[0]


def _time_first(module: Any, x: Tensor, hidden: Tensor, states: Any) -> tuple[Any, Any, Any]:
    if x.dim() == 2:
        states = None if states is None else tuple(s.unsqueeze(1) for s in states)
        return x.unsqueeze(1), hidden.unsqueeze(1), states
    if module.batch_first:
        return x.transpose(0, 1), hidden.transpose(0, 1), states
    return x, hidden, states


def _starts(module: Any, x: Tensor, states: Any) -> tuple[Tensor, ...]:
    if states is not None:
        return tuple(state.to(x.dtype) for state in states)
    count = module.num_layers * (2 if module.bidirectional else 1)
    hidden = x.new_zeros(count, x.shape[1], module.proj_size or module.hidden_size)
    memory = x.new_zeros(count, x.shape[1], module.hidden_size)
    return (hidden, memory) if _core(module) == "lstm" else (hidden,)


def _weights(module: Any, suffix: str) -> dict[str, Tensor]:
    """A layer and direction's parameters by their names without the suffix, in torch's order."""
    return {name: getattr(module, f"{name}_{suffix}") for name in _PARAMETERS
            if hasattr(module, f"{name}_{suffix}")}  # fmt: skip


_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def _arguments(args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The input and the state, however they were given."""
    given = [*args, *(kwargs[name] for name in ("input", "hx")[len(args) :] if name in kwargs)]
    return given[0], (given[1] if len(given) > 1 else None)


def _compute(weight: Tensor) -> torch.dtype:
    return torch.float32 if weight.dtype in LOW else weight.dtype


def _suffix(k: int, bidirectional: bool) -> str:
    return f"l{k // 2}{'_reverse' * (k % 2)}" if bidirectional else f"l{k}"


def _joined(name: str, suffix: str) -> str:
    return ".".join(part for part in (name, suffix) if part)


def _valid(lengths: Lengths | None) -> Tensor | None:
    """Which (time, batch) are within their sequence."""
    return None if lengths is None else lengths.steps < lengths.index
