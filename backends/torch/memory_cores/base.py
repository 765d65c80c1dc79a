"""The base of the cores with an external memory, and the LSTM inside them."""

import abc
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.cells import LSTMCell
from gatecore.backends.torch.nn.checkpoint import torch_compatible
from gatecore.backends.torch.sequence.implementation import check_memory
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.mechanisms import Mechanism

Gates = list[Gate] | None  # to be extended by the means of each step's forget gates
Resets = Tensor | None  # bool (time, batch)
States = tuple[Tensor, Tensor]
Result = tuple[Tensor, Any]  # output and state


class MemoryCore(nn.Module, abc.ABC):
    """A recurrent core with a memory beside, or in place of, a hidden state.

    A subclass defines ``initial_state``, ``_project`` (the part of all steps that is computed at
    once) and ``_step``. Weights are in float32 or float64; autocast changes nothing.
    """

    input_size: int
    output_size: int
    gate_shape: tuple[int, int]

    def forward(self, x: Tensor, state: Any = None, resets: Resets = None) -> Result:
        """The outputs (time, batch, ``output_size``) of x (time, batch, input), and the last state.

        ``state`` is a former call's, a tensor or nested tuples of tensors, the batch along axis 0
        of each; by default, and before each step at which ``resets``, bool (time, batch), is true,
        that of new sequences. ValueError if x or resets has another shape or dtype.
        """
        with no_autocast(x.device.type):
            return self._run(x, state, resets, None)

    @torch.no_grad()
    def forget_gates(self, x: Tensor, state: Any = None, resets: Resets = None) -> Gate:
        """The effective forget gates, averaged over time and batch: float64 ``gate_shape``."""
        gates: list[Gate] = []
        with no_autocast(x.device.type):
            self._run(x, state, resets, gates)
        return Gate(*(torch.stack(side).mean(0) for side in zip(*gates, strict=True)))

    @abc.abstractmethod
    def initial_state(self, batch: int, like: Tensor) -> Any:
        """The state of ``batch`` new sequences, of the dtype and on the device of ``like``."""

    def __prepare_scriptable__(self) -> nn.Module:
        raise RuntimeError(f"{type(self).__name__} cannot be compiled by torch.jit.script: use "
                           "torch.export, or torch.compile")  # fmt: skip

    def reset_parameters(self) -> None:
        """Re-initialize all parameters from torch's default generator."""
        for module in self.children():
            for part in module if isinstance(module, nn.ModuleList) else [module]:
                part.reset_parameters()  # type: ignore[operator]

    def _run(self, x: Tensor, state: Any, resets: Resets, gates: Gates) -> Result:
        check(self, x, state, resets)
        fresh = self.initial_state(x.shape[1], x) if state is None or resets is not None else None
        state = fresh if state is None else state
        outputs, state = self._scan(self._weights(), x, state, fresh, resets, gates)
        return self._finish(torch.stack(outputs)), state

    def _scan(self, weights: Any, x: Tensor, state: Any, fresh: Any, resets: Resets,
              gates: Gates) -> tuple[list[Any], Any]:  # fmt: skip
        """The outputs of all steps and the last state; ``fresh`` is that of new sequences."""
        outputs, projected = [], self._project(weights, x)
        due = [True] * len(x)  # when traced, there may be resets before any step
        if resets is not None and not torch.compiler.is_compiling():
            due = resets.any(1).tolist()
        for t, inputs in enumerate(zip(*(part.unbind(0) for part in projected), strict=True)):
            if resets is not None and due[t]:
                state = reset_where(resets[t], fresh, state)
            output, state, gate = self._step(weights, inputs, state)
            outputs.append(output)
            if gates is not None:
                gates.append(Gate(*(side.double().mean(0) for side in gate)))
        return outputs, state

    def _weights(self) -> Any:
        """The weights in the form that ``_project`` and ``_step`` take."""
        return None

    @abc.abstractmethod
    def _project(self, weights: Any, x: Tensor) -> tuple[Tensor, ...]:
        """The inputs of all steps, each (time, batch, ...)."""

    @abc.abstractmethod
    def _step(self, weights: Any, inputs: tuple[Tensor, ...], state: Any) -> tuple[Any, Any, Gate]:
        """One step: its output, the next state, and the forget gates (batch, *gate_shape)."""

    def _finish(self, outputs: Tensor) -> Tensor:
        """The core's output from the outputs of all steps."""
        return outputs


def check(core: MemoryCore, x: Tensor, state: Any, resets: Resets) -> None:
    """Raise ValueError unless x and resets fit the core, and all are in memory."""
    if x.dim() != 3 or x.shape[2] != core.input_size or not x.shape[0]:
        raise ValueError(f"x must have shape (time, batch, {core.input_size}) with one step or "
                         f"more, got {tuple(x.shape)}")  # fmt: skip
    check_memory(x=(x,), resets=(resets,), state=_leaves(state))
    if resets is not None and (resets.dtype != torch.bool or resets.shape != x.shape[:2]):
        raise ValueError(f"resets must be torch.bool of shape {tuple(x.shape[:2])}, got "
                         f"{resets.dtype} of shape {tuple(resets.shape)}")  # fmt: skip


def _leaves(state: Any) -> list[Tensor]:
    parts = state if isinstance(state, tuple | list) else []
    return [state] if isinstance(state, Tensor) else [leaf for p in parts for leaf in _leaves(p)]


def reset_where(reset: Tensor, fresh: Any, state: Any) -> Any:
    """The state, replaced by ``fresh`` where ``reset`` (batch,) is true."""
    if isinstance(state, Tensor):
        return torch.where(reset.view(-1, *[1] * (state.dim() - 1)), fresh, state)
    return tuple(reset_where(reset, *parts) for parts in zip(fresh, state, strict=True))


def positive(**sizes: int) -> list[int]:
    """The sizes as Python's integers. Raise unless all are integers of at least 1."""
    return [_checks.integer(name, size) for name, size in sizes.items()]


class Weights(NamedTuple):
    """A controller's weights: of the input's first part, of the rest and of h, and the bias."""

    first: Tensor
    rest: Tensor
    hidden: Tensor
    bias: Tensor


class Controller(LSTMCell):
    """An LSTM cell, whose input is projected for all steps at once but for what a core has read."""

    def __init__(self, input_size: int, hidden_size: int, *, mechanism: str | Mechanism,
                 **factory: Any) -> None:  # fmt: skip
        # two biases in the torch-compatible cells alone, as in the runs of earlier versions
        factory["two_biases"] = torch_compatible(self.core, mechanism)
        super().__init__(input_size, hidden_size, mechanism=mechanism, **factory)

    def weights(self, first: int) -> Weights:
        """The weights for a first part of that width."""
        dtype, two_biases = self.weight_ih.dtype, self.two_biases
        params = parameters.core_params(self._cell, self._weights(0), two_biases, dtype)
        matrix = params["weight_ih"]
        return Weights(matrix[:, :first], matrix[:, first:], params["weight_hh"], params["bias"])

    def project(self, weights: Weights, x: Tensor) -> Tensor:
        """The first part's logits, bias included."""
        return functional.linear(x, weights.first, weights.bias)

    def advance(self, weights: Weights, projected: Tensor, rest: Tensor,
                state: States) -> tuple[States, Gate]:  # fmt: skip
        """One step: the next (h, c) and the effective forget gate, both (batch, hidden)."""
        logits = torch.addmm(projected, rest, weights.rest.T)
        parts = self._cell.split(torch.addmm(logits, state[0], weights.hidden.T))
        gates = self.mechanism.gates(parts)
        return self._cell.complete(parts, gates, state), gates[0]
