"""Recurrent cores by name, all called alike: core(x, state, resets) -> output, state."""

from typing import Any

import torch
from torch import Tensor, nn

from gatecore.algebra import Gate
from gatecore.backends.torch.inspect.gate_statistics import forget_gates
from gatecore.backends.torch.memory_cores.dnc import DNC
from gatecore.backends.torch.memory_cores.relational import RelationalMemory
from gatecore.backends.torch.memory_cores.rma import RMA
from gatecore.backends.torch.nn.layers import GRU, LSTM, Minimal
from gatecore.contracts.memory import RMA_LAYERS, Core, Memory
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism
_LAYERS: dict[str, type[nn.Module]] = {"lstm": LSTM, "gru": GRU, "minimal": Minimal}


class Layers(nn.Module):
    """Recurrent layers as a core.

    Parameters
    ----------
    layer : LSTM, GRU or Minimal
        One direction, time first.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer: Any = layer
        self.output_size = layer.hidden_size
        self.gate_shape = (layer.num_layers, layer.hidden_size)

    def forward(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Any:
        """x (time, batch, input) to the outputs (time, batch, hidden) and the last state.

        The state is torch's: each tensor (layers, batch, hidden).
        """
        return self.layer(x, state, resets=resets)

    @torch.no_grad()
    def forget_gates(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Gate:
        """The effective forget gates (layers, hidden), averaged over time and batch."""
        found: list[list[Tensor]] = []

        def observe(
            k: int, params: Any, x: Tensor, start: Any, hidden: Any, resets: Any, lengths: Any
        ) -> None:
            gate = forget_gates(self.layer._cells[k], params, x, start, hidden, resets)
            found.append([side.double().mean((0, 1)) for side in gate])

        before = self.layer.observers
        self.layer.observers = (*before, observe)
        try:
            self.layer(x, state, resets=resets)
        finally:
            self.layer.observers = before
        return Gate(*(torch.stack(side) for side in zip(*found, strict=True)))


def memory_core(
    core: str,
    input_size: int,
    hidden_size: int,
    mechanism: str | Mechanism = "UR",
    layers: int = 1,
    memory: Memory | None = None,
    dtype: Any = None,
) -> Any:
    """A core of that name: a module with ``output_size``, ``gate_shape`` and ``forget_gates``.

    Parameters
    ----------
    core : {"lstm", "gru", "minimal", "rmc", "dnc", "rma"}
    input_size : int
    hidden_size : int
        Units of a layer; of a slot of "rmc"; of the controller of "dnc" and of each of "rma"'s.
    mechanism : str or Mechanism
    layers : int
        Of "lstm", "gru" and "minimal".
    memory : Memory, optional
        Sizes of the others.
    dtype : torch.dtype, optional
        Of the parameters.
    """
    chosen = Core(core, hidden_size, _mechanism(mechanism), layers, memory)
    sizes: Any = chosen.memory
    gates: dict[str, Any] = {"mechanism": chosen.mechanism, "dtype": dtype}
    if core == "rmc":
        return RelationalMemory(
            input_size, sizes.slots, hidden_size // sizes.heads, sizes.heads, blocks=sizes.blocks,
            gate_style=sizes.gate_style, **gates,
        )  # fmt: skip
    if core == "dnc":
        return DNC(
            input_size, hidden_size, slots=sizes.slots, width=sizes.width, reads=sizes.heads,
            **gates,
        )  # fmt: skip
    if core == "rma":
        return RMA(
            input_size, hidden_size, layers=RMA_LAYERS, latents=sizes.width, slots=sizes.slots,
            reads=sizes.heads, **gates,
        )  # fmt: skip
    return Layers(_LAYERS[core](input_size, hidden_size, layers, **gates))
