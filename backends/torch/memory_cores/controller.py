"""The LSTM inside a memory core."""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.cells import LSTMCell
from gatecore.backends.torch.nn.checkpoint import torch_compatible
from gatecore.mechanisms import Mechanism

States = tuple[Tensor, Tensor]


class Weights(NamedTuple):
    """A controller's weights: of the input's first part, of the rest and of h, and the bias."""

    first: Tensor
    rest: Tensor
    hidden: Tensor
    bias: Tensor


class Controller(LSTMCell):
    """An LSTM cell whose input has a first part that is projected for all steps at once.

    The rest, which the core has read from its memory, is known only at its step.
    """

    def __init__(
        self, input_size: int, hidden_size: int, *, mechanism: str | Mechanism, **factory: Any
    ) -> None:
        # two biases in the torch-compatible cells alone, as in the runs of earlier versions
        two_biases = torch_compatible(self.core, mechanism)
        super().__init__(
            input_size, hidden_size, mechanism=mechanism, two_biases=two_biases, **factory
        )

    def weights(self, first: int) -> Weights:
        """The weights for a first part of that width."""
        named, dtype = self._weights(0), self.weight_ih.dtype
        params = parameters.core_params(self._cell, named, self.two_biases, dtype)
        matrix = params["weight_ih"]
        return Weights(matrix[:, :first], matrix[:, first:], params["weight_hh"], params["bias"])

    def project(self, weights: Weights, x: Tensor) -> Tensor:
        """The first part's logits, bias included."""
        return functional.linear(x, weights.first, weights.bias)

    def advance(
        self, weights: Weights, projected: Tensor, rest: Tensor, state: States
    ) -> tuple[States, Gate]:
        """One step: the next (h, c) and the effective forget gate, both (batch, hidden)."""
        logits = torch.addmm(projected, rest, weights.rest.T)
        parts = self._cell.split(torch.addmm(logits, state[0], weights.hidden.T))
        gates = self.mechanism.gates(parts)
        return self._cell.complete(parts, gates, state), gates[0]
