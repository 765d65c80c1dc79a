"""What the recurrent layers share: torch's constructor, checks and shapes around ``run``."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from gatecore import _checks
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.checkpoint import Stateful
from gatecore.backends.torch.nn.packed import Lengths, reverse, reverse_resets
from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.call import add_biases, zero_states
from gatecore.backends.torch.sequence.precision import LOW, dtypes, no_autocast
from gatecore.backends.torch.sequence.run import run
from gatecore.backends.torch.sequence.signature import TORCH_SIGNATURES, signature
from gatecore.cells import CELLS
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism


class Recurrent(Stateful):
    """What the three layers share.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
    device, dtype
        As for ``torch.nn.LSTM``.
    mechanism : str or Mechanism
    zoneout : float or (float, float)
        Probability that a unit keeps its old value at a training step, of the cell and the hidden
        state for an LSTM; the expectation is taken in evaluation.
    return_cells : bool
        LSTM: the output is a pair, hidden and cell states of all steps.
    two_biases : bool, optional
        Whether ``bias_hh`` is trained beside ``bias_ih``, which doubles the biases' learning rate.
        By default only where the layer computes what torch's own does, and then as torch's own;
        else ``bias_hh`` stays what it is, at first 0 (but for the GRU's part inside the reset).
    impl : {"auto", "native", "reference", "fused", "graph", "plain", "scan"}
        By what sequences are computed; ``last_impl`` says what the last call took.
    """

    core: str
    observers: tuple[Any, ...] = ()  # of `watch`: shown what each layer and direction computed
    _torch_class: ClassVar[type[nn.RNNBase]]
    # torch's own checks, in its words: Any, since they are typed as methods of its classes
    check_input: Any = nn.RNNBase.check_input
    check_hidden_size: Any = nn.RNNBase.check_hidden_size
    check_forward_args: Any = nn.RNNBase.check_forward_args
    get_expected_hidden_size: Any = nn.RNNBase.get_expected_hidden_size
    permute_hidden: Any = nn.RNNBase.permute_hidden
    _torch_repr: Any = nn.RNNBase.extra_repr

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        mechanism: str | Mechanism = "UR",
        zoneout: Any = 0.0,
        return_cells: bool = False,
        two_biases: bool | None = None,
        impl: str = "auto",
    ) -> None:
        super().__init__()
        self._ask_torch(
            proj_size, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers,
            bias=bias, batch_first=batch_first, dropout=dropout, bidirectional=bidirectional,
        )  # fmt: skip
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self.mechanism = _mechanism(mechanism)
        self.zoneout = zoneout_amounts(self.core, zoneout)
        self.return_cells, self.impl = self._cells_wanted(return_cells), dispatch.checked(impl)
        own = signature(self.core, self.mechanism) == TORCH_SIGNATURES.get(self.core)
        self.two_biases = own if two_biases is None else bool(two_biases)
        self.last_impl: str | None = None
        self._make_parameters({"device": device, "dtype": dtype})
        self.reset_parameters()

    def _ask_torch(self, proj_size: int, **sizes: Any) -> None:
        """Let torch's own constructor refuse what it does, in its words."""
        self._torch_class(**sizes, device="meta")
        if proj_size:
            raise ValueError("proj_size argument is only supported for LSTM, not RNN or GRU")

    def _make_parameters(self, factory: dict[str, Any]) -> None:
        self._cells = []
        self._names: list[dict[str, str]] = []  # of each layer and direction, short and whole
        directions = 2 if self.bidirectional else 1
        width = (self.proj_size or self.hidden_size) * directions
        for layer in range(self.num_layers):
            inputs = width if layer else self.input_size
            for suffix in ("", "_reverse")[:directions]:
                cell = CELLS[self.core](inputs, self.hidden_size, self.mechanism)
                names: dict[str, str] = {}
                for name, shape in parameters.shapes(cell, self.bias, self.proj_size).items():
                    names[name] = f"{name}_l{layer}{suffix}"
                    value = nn.Parameter(torch.empty(shape, **factory))
                    self.register_parameter(names[name], value)
                    frozen = name == "bias_hh" and not self.two_biases and self.core != "gru"
                    value.requires_grad_(not frozen)
                self._cells.append(cell)
                self._names.append(names)

    def reset_parameters(self) -> None:
        """Draw all parameters again, from torch's default generator."""
        for k, cell in enumerate(self._cells):
            parameters.initialise(cell, self._own(k))

    def flatten_parameters(self) -> None:
        """Nothing: there is no cuDNN buffer to fill. Code written for torch's layers calls it."""

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of each layer and direction, in torch's order."""
        return [[getattr(self, name) for name in names.values()] for names in self._names]

    @property
    def _flat_weights(self) -> list[nn.Parameter]:  # torch's own checks read it
        return [weight for weights in self.all_weights for weight in weights]

    def extra_repr(self) -> str:
        text = self._torch_repr()
        text += f", mechanism={self.mechanism.name!r}"
        text += f", zoneout={self.zoneout}" if any(self.zoneout) else ""
        return text + (", return_cells=True" if self.return_cells else "")

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        resets: Tensor | None = None,
        return_cells: bool | None = None,
    ) -> tuple[Any, Any]:
        """The output of the last layer, and the last states of all layers, as torch's layers.

        Parameters
        ----------
        input : Tensor (time, batch, input), (batch, time, input), (time, input); or PackedSequence
        hx : (h_0, c_0) or h_0, optional
        resets : bool Tensor (time, batch), laid out as the input, optional
            Where true, the state is zeroed before that step (for the reversed direction: on the
            other side of that boundary). For a packed input (time, batch), in the batch's order.
        return_cells : bool, optional
            Overrides the layer's own.
        """
        cells = self.return_cells if return_cells is None else self._cells_wanted(return_cells)
        batched, lengths = True, None
        if isinstance(input, PackedSequence):
            hx = None if hx is None else self.permute_hidden(hx, input.sorted_indices)
            hx = self._states_given(input.data, hx, input.batch_sizes)
            x, lengths = Lengths.unpack(input)
        else:
            x, hx, batched = self._unpacked(input, hx)
        resets = None if resets is None else self._resets(resets, x, batched, input)
        output, last = self._layers(x, hx, resets, lengths, cells)
        if lengths is not None:
            shown = tuple(lengths.pack(part, input) for part in output)
            final = self.permute_hidden(self._one(last), input.unsorted_indices)
            return (shown if cells else shown[0]), final
        return self._packed_like_input(output, last, batched, cells)

    def _unpacked(self, input: Tensor, hx: Any) -> tuple[Tensor, tuple[Tensor, ...] | None, bool]:
        """Time first and batched, all checked; and whether it came batched."""
        kind = type(self).__name__
        if input.dim() not in (2, 3):
            raise ValueError(f"{kind}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(0 if self.batch_first else 1)
        if hx is not None:
            hx = self._batched_states(hx, batched)
        states = self._states_given(input, hx, None)
        x = input.transpose(0, 1) if self.batch_first else input
        if not x.shape[0] and not torch.compiler.is_compiling():
            raise RuntimeError("Expected sequence length to be larger than 0 in RNN")
        return x, states, batched

    def _batched_states(self, hx: Any, batched: bool) -> Any:
        expected, kind = (3, "batched") if batched else (2, "unbatched")
        if hx.dim() != expected:
            raise RuntimeError(
                f"For {kind} {expected}-D input, hx should also be {expected}-D but got "
                f"{hx.dim()}-D tensor"
            )
        return hx if batched else hx.unsqueeze(1)

    def _states_given(
        self, input: Tensor, hx: Any, batch_sizes: Tensor | None
    ) -> tuple[Tensor, ...] | None:
        """The states, None for zeros; all checked, and what is wrong is said by torch's check."""
        if hx is None:
            weight = self._parameter("weight_ih_l0")
            shape, packed = input.shape, batch_sizes is not None
            if packed or shape[-1] != self.input_size or input.dtype != weight.dtype:
                self.check_input(input, batch_sizes)
            return None
        states = tuple(hx) if self.core == "lstm" else (hx,)
        for state in states:
            low = {state.dtype, input.dtype} <= {*LOW, torch.float32}
            if state.dtype != input.dtype and not low:
                raise RuntimeError(
                    "Input and hidden tensors are not the same dtype, found input tensor with "
                    f"{input.dtype} and hidden tensor with {state.dtype}"
                )
        self.check_forward_args(input, self._one(states), batch_sizes)
        return states

    def _state_widths(self) -> tuple[int, ...]:
        return (self.hidden_size,)

    def _one(self, states: tuple[Tensor, ...]) -> Any:
        """States as torch's layer has them: a tuple for the LSTM only."""
        return states[0]

    def _resets(self, resets: Any, x: Tensor, batched: bool, input: Any) -> Tensor:
        packed = isinstance(input, PackedSequence)
        wanted = tuple(x.shape[:2]) if packed else tuple(input.shape[: 2 if batched else 1])
        if resets.dtype != torch.bool or tuple(resets.shape) != wanted:
            raise ValueError(
                f"resets must be torch.bool of shape {wanted}, got {resets.dtype} of shape "
                f"{tuple(resets.shape)}"
            )
        if packed:
            order = input.sorted_indices
            return resets if order is None else resets.index_select(1, order)
        if not batched:
            return resets.unsqueeze(1)
        return resets.T if self.batch_first else resets

    def _layers(
        self,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        resets: Tensor | None,
        lengths: Lengths | None,
        cells: bool,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """All layers and directions over x (time, batch, input)."""
        compute, shown = dtypes(self._parameter("weight_ih_l0"))
        directions, finals = 2 if self.bidirectional else 1, []
        outputs: tuple[Tensor, ...] = ()
        with no_autocast(x.device.type):
            x = x if x.dtype == compute else x.to(compute)
            for layer in range(self.num_layers):
                parts = []
                for direction in range(directions):
                    k = layer * directions + direction
                    mine = None if states is None else tuple(s[k].to(compute) for s in states)
                    part, last = self._direction(k, x, mine, resets, lengths, direction, cells)
                    parts.append(part)
                    finals.append(last)
                outputs = parts[0] if directions == 1 else _side_by_side(parts)
                x = outputs[0]
                if layer < self.num_layers - 1 and self.dropout and self.training:
                    x = nn.functional.dropout(x, self.dropout, training=True)
        last = finals[0] if len(finals) == 1 else tuple(map(torch.cat, zip(*finals, strict=True)))
        if shown == compute:
            return outputs, last
        return (outputs[0].to(shown), *outputs[1:]), self._last_dtypes(last, shown)

    def _direction(
        self,
        k: int,
        x: Tensor,
        states: tuple[Tensor, ...] | None,
        resets: Tensor | None,
        lengths: Lengths | None,
        backwards: bool | int,
        cells: bool,
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        if backwards:
            x = reverse(x, lengths)
            resets = None if resets is None else reverse_resets(resets, lengths)
        cell = self._cells[k]
        params = parameters.layer_params(cell, self._own(k), self.two_biases, x.dtype)
        every = cells or (lengths is not None and self.core == "lstm")
        zoneout = self._amounts(x) if any(self.zoneout) else None
        done = run(cell, params, x, states, resets, zoneout, every, self.impl)
        self.__dict__["last_impl"] = done.impl  # it is no parameter, nor any other of torch's kinds
        for observe in self.observers:
            first = (states or zero_states(cell, x, self.proj_size))[0]
            observe(k, add_biases(params), x, first, done.outputs[0], resets, lengths)
        last = done.states if lengths is None else tuple(map(lengths.last, done.outputs))
        outputs = done.outputs[: 2 if cells else 1]
        return tuple(reverse(o, lengths) for o in outputs) if backwards else outputs, last

    def _own(self, k: int) -> dict[str, Any]:
        return {short: self._parameter(name) for short, name in self._names[k].items()}

    def _parameter(self, name: str) -> Any:
        """The attribute of this name, sooner found; a parametrised one is no parameter."""
        found = self._parameters.get(name)
        return getattr(self, name) if found is None else found

    def _last_dtypes(self, last: tuple[Tensor, ...], shown: torch.dtype) -> tuple[Tensor, ...]:
        """The state stays in float32: a sum over 1e4 steps does not survive 8 bits."""
        return last

    def _amounts(self, x: Tensor) -> tuple[Any, ...]:
        """Zoneout: draws while training, its expectation in evaluation."""
        if not self.training:
            return self.zoneout
        widths = reversed(self._state_widths())
        return tuple(
            (torch.rand(*x.shape[:2], width, device=x.device) < p).to(x.dtype) if p else 0.0
            for p, width in zip(self.zoneout, widths, strict=True)
        )

    def _cells_wanted(self, return_cells: bool) -> bool:
        if return_cells:
            raise ValueError(f"return_cells is for LSTM: a {type(self).__name__} has no cell state")
        return False

    def _packed_like_input(
        self,
        output: tuple[Tensor, ...],
        last: tuple[Tensor, ...],
        batched: bool,
        cells: bool,
    ) -> tuple[Any, Any]:
        if not batched:
            output, last = (tuple(t.squeeze(1) for t in ts) for ts in (output, last))
        elif self.batch_first:
            output = tuple(o.transpose(0, 1) for o in output)
        return (output if cells else output[0]), self._one(last)


def _side_by_side(parts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What the directions returned, as one."""
    return tuple(torch.cat(part, -1) for part in zip(*parts, strict=True))


def zoneout_amounts(core: str, zoneout: Any) -> tuple[float, ...]:
    """Probabilities for (cell, hidden) of an LSTM, else for the hidden state."""
    wanted = 2 if core == "lstm" else 1
    amounts = tuple(zoneout) if isinstance(zoneout, tuple | list) else (zoneout,) * wanted
    if len(amounts) != wanted:
        expected = "a number or a pair (cell, hidden)" if wanted == 2 else "a number"
        raise ValueError(f"zoneout must be {expected}, got {zoneout!r}")
    return tuple(_checks.probability("zoneout", amount) for amount in amounts)
