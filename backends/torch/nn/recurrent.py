"""Recurrent layers: torch's constructor, checks and layouts around the run of a sequence."""

import functools
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, overload

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.torch.nn import base, parameters
from gatecore.backends.torch.nn.base import RecurrentModule, State, check_tensors
from gatecore.backends.torch.nn.layout import Dense, Lengths, Packed, Sequences, Tensors
from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.call import add_biases, zero_states
from gatecore.backends.torch.sequence.implementation import check_memory
from gatecore.backends.torch.sequence.precision import LOW, dtypes, no_autocast
from gatecore.backends.torch.sequence.run import run
from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import Mechanism

Input = TypeVar("Input", Tensor, PackedSequence)

_LARGEST = 1 << 20  # layers, and units: the weights of more would take terabytes


class Recurrent(RecurrentModule[State]):
    """The base of :class:`LSTM`, :class:`GRU`, :class:`Minimal` and :class:`MinGRU`.

    Parameters are named and packed as torch's: ``weight_ih_l0`` (rows, input), ``weight_hh_l0``
    (rows, width), ``bias_ih_l0``, ``bias_hh_l0`` (rows,), and with a projection ``weight_hr_l0``
    (width, hidden), with the rows in the order of ``Mechanism.slots``. The arguments from
    ``input_size`` to ``dtype`` are as for ``torch.nn.LSTM``; with the mechanism "standard" the
    layer computes what torch's does.

    ``zoneout`` is the probability in [0, 1] with which a unit keeps its old value at a training
    step; for an LSTM that of the cell and of the hidden state, if it is a pair. In evaluation the
    expectation is taken. ``return_cells`` (LSTM) makes the output a pair, the hidden and the cell
    states of all steps. ``two_biases`` trains ``bias_hh`` beside ``bias_ih`` as in torch, which
    doubles the learning rate of their sum; without, ``bias_hh`` is a buffer that stays 0; a GRU's
    is a parameter, of which only the part that the reset gate multiplies is read and trained.
    ``layer_norm`` normalizes the two products W x and U h, each over all its rows, and an LSTM's
    cell state before the output's tanh (Ba et al. 2016); their gains ``norm_ih_l0``, ``norm_hh_l0``
    (rows,) and ``norm_c_l0`` (hidden,) and, unless ``bias`` is false, ``norm_c_bias_l0`` (hidden,)
    follow torch's parameters. The biases are added after it: initial timescales stay.
    ``impl``, "auto", "native", "parallel" (MinGRU alone), "reference", "fused", "graph", "plain" or
    "scan", is the implementation that runs a sequence; "auto" is the first that supports the call.

    ``last_impl`` is the implementation that ran the last call, or None; ``initialised``, of a layer
    made from torch's, the slots whose weights were not copied. ValueError or TypeError for sizes
    and settings that torch refuses, in its words; for an unknown mechanism or implementation, a
    zoneout outside [0, 1], or ``return_cells`` without cell states.
    """

    # each is called after each layer and direction with its number, a function that returns the
    # effective forget gates (time, batch, hidden), and the lengths of the sequences, if packed
    observers: tuple[Callable[[int, Callable[[], Gate], Lengths | None], None], ...] = ()
    _torch_class: ClassVar[type[nn.RNNBase]]
    # torch's own checks, in its words: Any, since they are typed as methods of its classes
    check_input: Any = nn.RNNBase.check_input
    check_hidden_size: Any = nn.RNNBase.check_hidden_size
    check_forward_args: Any = nn.RNNBase.check_forward_args
    get_expected_hidden_size: Any = nn.RNNBase.get_expected_hidden_size
    permute_hidden: Any = nn.RNNBase.permute_hidden
    _torch_repr: Any = nn.RNNBase.extra_repr

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, bias: bool = True,
        batch_first: bool = False, dropout: float = 0.0, bidirectional: bool = False,
        proj_size: int = 0, device: Any = None, dtype: Any = None, *,
        mechanism: str | Mechanism = "UR", zoneout: Any = 0.0, return_cells: bool = False,
        two_biases: bool = True, layer_norm: bool = False, impl: str = "auto",
    ) -> None:  # fmt: skip
        num_layers = _checks.integer("num_layers", num_layers, -_checks.LARGEST, _LARGEST)
        proj_size = _checks.integer("proj_size", proj_size, -_checks.LARGEST)
        input_size, hidden_size, bias, batch_first, dropout, bidirectional = map(
            _checks.plain, (input_size, hidden_size, bias, batch_first, dropout, bidirectional)
        )
        sizes = ("hidden_size", hidden_size, _LARGEST), ("input_size", input_size, _checks.LARGEST)
        for name, size, largest in sizes:
            if isinstance(size, int):  # before anything is made
                _checks.integer(name, int(size), -_checks.LARGEST, largest)
        projection: dict[str, Any] = {"proj_size": proj_size} if proj_size else {}
        self._torch_class(  # raises for what torch refuses, in its words
            input_size=input_size, hidden_size=hidden_size, num_layers=num_layers, bias=bias,
            batch_first=batch_first, dropout=dropout, bidirectional=bidirectional, device="meta",
            **projection,
        )  # fmt: skip
        super().__init__(mechanism, zoneout, two_biases, layer_norm)
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.dropout = _checks.probability("dropout", dropout)
        self.bias, self.batch_first = bias, batch_first
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self.return_cells, self.impl = self._checked_cells(return_cells), dispatch.checked(impl)
        self.last_impl: str | None = None
        suffixes = ("", "_reverse") if bidirectional else ("",)
        width = (proj_size or hidden_size) * len(suffixes)
        for layer, suffix in itertools.product(range(num_layers), suffixes):
            inputs = width if layer else input_size
            cell = self._make_cell(inputs, hidden_size)
            name = f"_l{layer}{suffix}"
            self._register(cell, bias, proj_size, name, device=device, dtype=dtype)
        self.reset_parameters()

    def _make_cell(self, input_size: int, hidden_size: int) -> Cell:
        return CELLS[self.core](input_size, hidden_size, self.mechanism, self.layer_norm)

    def flatten_parameters(self) -> None:
        """Nothing: there is no cuDNN buffer to fill. Code written for torch's layers calls it."""

    @property
    def all_weights(self) -> list[list[Tensor]]:
        """The parameters of each layer and direction, in torch's order."""
        return [list(self._weights(k).values()) for k in range(len(self._cells))]

    # code written for torch's layers reads these, and torch's own checks the first
    @property
    def _flat_weights(self) -> list[Tensor]:
        return [weight for weights in self.all_weights for weight in weights]

    @property
    def _all_weights(self) -> list[list[str]]:
        return [list(names.values()) for names in self._names]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def mode(self) -> str:
        """The name of the kind of layer in torch: "LSTM" or "GRU"."""
        return self.core.upper()

    def extra_repr(self) -> str:
        text = self._torch_repr() + self._settings_repr()
        return text + (", return_cells=True" if self.return_cells else "")

    @overload
    def forward(
        self, input: Input, hx: State | None = None, *, resets: Tensor | None = None,
        return_cells: Literal[False] | None = None,
    ) -> tuple[Input, State]: ...  # fmt: skip
    @overload
    def forward(
        self, input: Input, hx: State | None = None, *, resets: Tensor | None = None,
        return_cells: Literal[True],
    ) -> tuple[tuple[Input, Input], State]: ...  # fmt: skip
    def forward(
        self, input: Any, hx: Any = None, *, resets: Tensor | None = None,
        return_cells: bool | None = None,
    ) -> Any:  # fmt: skip
        """The outputs of the last layer, and the last states of all layers.

        ``input`` is (time, batch, input), (batch, time, input) with ``batch_first``, (time, input),
        or a PackedSequence. ``hx`` are the initial states (layers · directions, batch, width), by
        default zeros: h_0, for the LSTM (h_0, c_0); without the batch axis where the input has
        none. Where bool ``resets`` (time, batch), laid out as the input, is true, the state is
        zeroed before the step, in the reversed direction after it; for a packed input it is (time,
        batch), in the order before packing. ``return_cells`` is by default as set in the
        constructor, where static types assume False.

        The output, (time, batch, directions · width), is laid out as the input; with
        ``return_cells`` it is a pair. The last states are as ``hx``; the part that accumulates (c,
        or the h of a GRU) is at least float32. ValueError or RuntimeError for inputs and states
        that torch refuses, in its words; for resets that are not boolean or have another shape, and
        an ``impl`` that does not support the call.
        """
        if isinstance(input, fx.Proxy):
            options = {"resets": resets, "return_cells": return_cells}
            keywords = {name: value for name, value in options.items() if value is not None}
            return self._fx_node(input, *(() if hx is None else (hx,)), **keywords)
        cells = self.return_cells if return_cells is None else self._checked_cells(return_cells)
        layout: Dense | Packed
        if isinstance(input, PackedSequence):
            layout = Packed(input)
        elif not isinstance(input, Tensor):
            kind = type(input).__name__
            raise TypeError(f"input must be a Tensor or a PackedSequence, got {kind}")
        elif input.dim() in (2, 3):
            layout = Dense(input, self.batch_first)
        else:
            kind = type(self).__name__
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        states = None
        if hx is not None:
            check_tensors("hx", *(parts := self._cells[0].parts(hx, "hx")))
            states = layout.states(parts)
        if resets is not None:
            check_tensors("resets", resets)
        self._check(layout, states)
        bounds = Sequences(None if resets is None else layout.resets(resets), layout.lengths)
        try:
            outputs, last = self._run_layers(layout.x, states, bounds, cells)
        except RuntimeError:
            check_memory(hx=states or (), resets=(resets,))  # torch names no argument
            raise
        final = self._cells[0].state(layout.restore_states(last))
        results = tuple(map(layout.restore, outputs))
        return (results if cells else results[0]), final

    if TYPE_CHECKING:
        __call__ = forward

    def _checked_cells(self, return_cells: bool) -> bool:
        _checks.flag("return_cells", return_cells)
        if return_cells and len(CELLS[self.core].state_names) == 1:
            raise ValueError(f"return_cells must be False, got True: a {type(self).__name__} has "
                             "no cell state beside its hidden state, which is the "
                             "output")  # fmt: skip
        return return_cells

    def _check(self, layout: Dense | Packed, states: Tensors | None) -> None:
        """Raise what torch's layers raise for such an input and states, in their words."""
        input = layout.data
        if states is None:
            packed, dtype = isinstance(layout, Packed), self._parameter("weight_ih_l0").dtype
            if packed or input.shape[-1] != self.input_size or input.dtype != dtype:
                self.check_input(input, layout.batch_sizes)
        else:
            for state in states:
                low = input.dtype in LOW and state.is_floating_point()
                if not (low or state.dtype in (input.dtype, *LOW)):
                    raise RuntimeError("Input and hidden tensors are not the same dtype, found "
                                       f"input tensor with {input.dtype} and hidden tensor with "
                                       f"{state.dtype}")  # fmt: skip
            self.check_forward_args(input, self._cells[0].state(states), layout.batch_sizes)
        if not layout.x.shape[0] and not torch.compiler.is_compiling():
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")

    def _run_layers(self, x: Tensor, states: Tensors | None, bounds: Sequences,
                    cells: bool) -> tuple[Tensors, Tensors]:  # fmt: skip
        """Outputs of the last layer and last states of all, from x (time, batch, input)."""
        compute, dtype = dtypes(self._parameter("weight_ih_l0"))
        directions, last = 2 if self.bidirectional else 1, []
        outputs: Tensors = ()
        with no_autocast(x.device.type):
            if x.dtype != compute:
                check_memory(input=(x,))
                x = x.to(compute)
            for layer in range(self.num_layers):
                if layer and self.dropout and self.training:
                    x = nn.functional.dropout(x, self.dropout, training=True)
                results = []
                for k in range(layer * directions, (layer + 1) * directions):
                    start = None if states is None else tuple(s[k].to(compute) for s in states)
                    results.append(self._run_direction(k, x, start, bounds, cells))
                outputs = _concatenate([output for output, _ in results], -1)
                last += [final for _, final in results]
                x = outputs[0]
        finals = _concatenate(last, 0)
        if dtype == compute:
            return outputs, finals
        return (outputs[0].to(dtype), *outputs[1:]), base.round_states(finals, dtype)

    def _run_direction(self, k: int, x: Tensor, states: Tensors | None, bounds: Sequences,
                       cells: bool) -> tuple[Tensors, Tensors]:  # fmt: skip
        """Outputs (time, batch, width) and last states (1, batch, width) of direction ``k``."""
        backward = self.bidirectional and k % 2
        if backward:
            x, bounds = bounds.reverse(x), bounds.reversed()
        resets, lengths = bounds
        cell = self._cells[k]
        params = parameters.layer_params(cell, self._weights(k), self.two_biases, x.dtype)
        # with lengths, the last states are looked up among those of all steps
        all_states = len(cell.state_names) > 1 and (cells or lengths is not None)
        result = run(cell, params, x, states, resets, self._zoneout(x), all_states, self.impl)
        self.__dict__["last_impl"] = result.impl  # past Module.__setattr__, which is slow
        for observe in self.observers:
            start = (states or zero_states(cell, x, self.proj_size))[0]
            arguments = (cell, add_biases(params), x, start, result.outputs[0], resets)
            observe(k, functools.partial(parameters.forget_gates, *arguments), lengths)
        last = result.states if lengths is None else tuple(map(lengths.last, result.outputs))
        outputs = result.outputs[: 2 if cells else 1]
        return tuple(map(bounds.reverse, outputs)) if backward else outputs, last

    def _zoneout(self, x: Tensor) -> tuple[Any, ...] | None:
        """Masks while training, else probabilities; in the order (cell, hidden) of an LSTM."""
        if not any(self.zoneout):
            return None
        if not self.training:
            return self.zoneout
        widths = (self.hidden_size, self.proj_size or self.hidden_size)[-len(self.zoneout) :]
        return tuple(base.zoneout_mask(p, (*x.shape[:2], width), x) if p else 0.0
                     for p, width in zip(self.zoneout, widths, strict=True))  # fmt: skip


def _concatenate(parts: list[Tensors], axis: int) -> Tensors:
    """Tuples of tensors joined element by element."""
    if len(parts) == 1:
        return parts[0]
    return tuple(torch.cat(tensors, axis) for tensors in zip(*parts, strict=True))
