"""The LSTM inside a memory core."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.cells import LSTMCell

States = tuple[Tensor, Tensor]


class Weights(NamedTuple):
    """A controller's weights: of the input known ahead, of the rest and of h, and the bias."""

    known: Tensor
    rest: Tensor
    hidden: Tensor
    bias: Tensor


class Controller(LSTMCell):
    """An LSTM cell which is told the first part of its input for all steps at once.

    What a memory returns is the rest, known only when its step comes.
    """

    def held(self, known: int) -> Weights:
        """The weights for steps whose first ``known`` inputs are projected ahead."""
        own = dict(self.named_parameters(recurse=False))
        params = parameters.core_params(self._cell, own, self.two_biases, self.weight_ih.dtype)
        first, second = params["weight_ih"][:, :known], params["weight_ih"][:, known:]
        return Weights(first, second, params["weight_hh"], params["bias"])

    def project(self, held: Weights, x: Tensor) -> Tensor:
        """The known part of the logits, bias included."""
        return functional.linear(x, held.known, held.bias)

    def advance(
        self, held: Weights, projected: Tensor, rest: Tensor, state: States
    ) -> tuple[States, Gate]:
        """One step: the next (h, c) and the effective forget gate, both (batch, hidden)."""
        logits = torch.addmm(torch.addmm(projected, rest, held.rest.T), state[0], held.hidden.T)
        parts = self._cell.split(logits)
        gates = self.mechanism.gates(parts)
        return self._cell.complete(parts, gates, state), gates[0]
