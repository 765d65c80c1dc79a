"""Recurrent cores by name, with one signature: core(x, state, resets) -> output, state."""

from collections.abc import Callable
from typing import Any

from torch import nn

from gatecore.backends.torch.memory_cores.dnc import DNC
from gatecore.backends.torch.memory_cores.layers import Layers, ResidualLayers
from gatecore.backends.torch.memory_cores.relational import RelationalMemory
from gatecore.backends.torch.memory_cores.rma import RMA
from gatecore.backends.torch.nn.checkpoint import torch_compatible
from gatecore.backends.torch.nn.layers import GRU, LSTM, MinGRU, Minimal
from gatecore.cells import CELLS
from gatecore.contracts.memory import RMA_LAYERS, Core

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
    settings: dict[str, Any] = {"mechanism": core.mechanism, "dtype": dtype, **core.cell_fields}
    if core.memory is not None:
        return _MEMORY_CORES[core.core](input_size, core.hidden_size, core.memory, **settings)
    if CELLS[core.core].recurrent:
        # two biases in the torch-compatible layers alone, as in the runs of earlier versions
        settings["two_biases"] = torch_compatible(core.core, core.mechanism)
    settings["layer_norm"] = core.layer_norm
    kind, size = _LAYERS[core.core], core.hidden_size
    if core.residual:
        return ResidualLayers([kind(size, size, **settings) for _ in range(core.layers)],
                              input_size, dtype)  # fmt: skip
    return Layers(kind(input_size, size, core.layers, **settings))
