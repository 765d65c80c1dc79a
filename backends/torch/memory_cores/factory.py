"""Recurrent cores by name, with one signature: core(x, state, resets) -> output, state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores.dnc import DNC
from gatecore.backends.torch.memory_cores.relational import RelationalMemory
from gatecore.backends.torch.memory_cores.rma import RMA
from gatecore.backends.torch.nn.checkpoint import torch_compatible
from gatecore.backends.torch.nn.layers import GRU, LSTM, MinGRU, Minimal
from gatecore.cells import CELLS
from gatecore.contracts.memory import RMA_LAYERS, Core


class Layers(nn.Module):
    """Layers of one direction as a core; states are (layers, batch, hidden)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer
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

        before = self.layer.observers
        self.layer.observers = (*before, observe)
        try:
            self.layer(x, state, resets=resets)
        finally:
            self.layer.observers = before
        return Gate(*(torch.stack(side) for side in zip(*means, strict=True)))


_LAYERS: dict[str, type[nn.Module]] = {"lstm": LSTM, "gru": GRU, "minimal": Minimal,
                                       "mingru": MinGRU}  # fmt: skip
_MEMORY_CORES: dict[str, Callable[..., nn.Module]] = {  # of input size, units d and sizes m
    "rmc": lambda size, d, m, **settings: RelationalMemory(
        size, m.slots, d // m.heads, m.heads, blocks=m.blocks, gate_style=m.gate_style, **settings),
    "dnc": lambda size, d, m, **settings: DNC(
        size, d, slots=m.slots, width=m.width, reads=m.heads, **settings),
    "rma": lambda size, d, m, **settings: RMA(
        size, d, layers=RMA_LAYERS, latents=m.width, slots=m.slots, reads=m.heads, **settings),
}  # fmt: skip


def recurrent_core(core: Core, input_size: int, dtype: Any = None) -> Any:
    """The core's module, with ``output_size``, ``gate_shape`` and ``forget_gates``."""
    settings: dict[str, Any] = {"mechanism": core.mechanism, "dtype": dtype}
    if core.memory is not None:
        return _MEMORY_CORES[core.core](input_size, core.hidden_size, core.memory, **settings)
    if CELLS[core.core].recurrent:
        # two biases in the torch-compatible layers alone, as in the runs of earlier versions
        settings["two_biases"] = torch_compatible(core.core, core.mechanism)
    settings["layer_norm"] = core.layer_norm
    return Layers(_LAYERS[core.core](input_size, core.hidden_size, core.layers, **settings))
