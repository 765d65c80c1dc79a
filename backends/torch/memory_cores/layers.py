"""Recurrent layers as a core, stacked or in residual blocks: core(x, state, resets)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.common.blocks import apply_layers
from gatecore.normalization import EPSILON


def layer_norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """Layer normalization of x (..., width)."""
    return functional.layer_norm(x, gain.shape, gain, bias, EPSILON)


class Layers(nn.Module):
    """Layers of one direction as a core; states are (layers, batch, hidden)."""

    output_size: int
    gate_shape: tuple[int, int]

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer = layer
        self.output_size = layer.hidden_size
        self.gate_shape = (layer.num_layers, layer.hidden_size)

    def forward(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Any:
        """x (time, batch, input) to the outputs (time, batch, hidden) and the last state."""
        return self.layer(x, state, resets=resets)

    @torch.no_grad()
    def forget_gates(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Gate:
        """The effective forget gates, averaged over time and batch: float64 ``gate_shape``."""
        means: list[list[Tensor]] = []

        def observe(k: int, gates: Any, lengths: Any) -> None:
            means.append([side.double().mean((0, 1)) for side in gates()])

        before = [layer.observers for layer in self._recurrent()]
        for layer in self._recurrent():
            layer.observers = (*layer.observers, observe)
        try:
            self(x, state, resets)
        finally:
            for layer, observers in zip(self._recurrent(), before, strict=True):
                layer.observers = observers
        return Gate(*(torch.stack(side) for side in zip(*means, strict=True)))

    def _recurrent(self) -> Sequence[Any]:
        return [self.layer]


class ResidualLayers(Layers):
    """Layers of the same sizes, each in a residual block; states are (layers, batch, hidden).

    The input is projected to the hidden size. The blocks are those of ``gatecore.ModelSpec``, and
    the parameters around the recurrent layers have the names that they have there.
    """

    def __init__(self, layers: Sequence[Any], input_size: int, dtype: Any = None) -> None:
        nn.Module.__init__(self)
        size = self.output_size = layers[0].hidden_size
        self.gate_shape = (len(layers), size)
        self.projection = nn.Linear(input_size, size, dtype=dtype)
        self.layers = nn.ModuleList(layers)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"norm": nn.LayerNorm(size, dtype=dtype),
                           "linear": nn.Linear(size, size, dtype=dtype)}) for _ in layers
        )  # fmt: skip
        self.norm = nn.LayerNorm(size, dtype=dtype)

    def forward(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Any:
        """x (time, batch, input) to the outputs (time, batch, hidden) and the last state."""
        last: list[Any] = []

        def layer(k: int, x: Tensor) -> Tensor:
            x, final = self.layers[k](x, _entry(state, k), resets=resets)
            last.append(final)
            return x

        parameters = dict(self.named_parameters())
        x = apply_layers(parameters, len(self.layers), True, x, layer, functional.linear,
                         layer_norm)  # fmt: skip
        if isinstance(last[0], Tensor):
            return x, torch.cat(last)
        return x, tuple(torch.cat(parts) for parts in zip(*last, strict=True))

    def _recurrent(self) -> Sequence[Any]:
        return [*self.layers]


def _entry(state: Any, k: int) -> Any:
    """The state of layer k, as a layer alone takes it."""
    if state is None or isinstance(state, Tensor):
        return state if state is None else state[k : k + 1]
    return tuple(part[k : k + 1] for part in state)
