"""The Relational Memory Core with any gate mechanism."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore import _checks, mechanisms
from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores.base import MemoryCore, positive
from gatecore.backends.torch.nn import parameters
from gatecore.backends.torch.nn.checkpoint import Stateful, has_values
from gatecore.cells import update
from gatecore.contracts.memory import GATE_STYLES
from gatecore.mechanisms import Mechanism

_CELL = "lstm"  # whose gates it has: of its slots all but these
_NO_GATES = ("candidate", "output")


class RelationalMemory(Stateful, MemoryCore):
    """Slots of memory that attend to each other and to the input (Santoro et al. 2018).

    With M the memory (slots, D), D = ``head_size`` · ``heads``, and x̃ = W x + b in the place of one
    more row, ``blocks`` times

        q, k, v = LN(Linear(M)), by head;  A = softmax(q kᵀ / √key_size) v
        M ← LN(M + A);  M ← LN(M + MLP(M))

    give M̃, of which the row of the input is dropped. The gates' logits are W_x x̃ + W_m tanh(M) + b,
    and M' = f ⊙ M + i ⊙ tanh(M̃), or M' = g ⊙ M + (1 − g) ⊙ tanh(M̃) where the mechanism ties its
    input gate: a refine gate takes the input gate's place, as in the LSTM. The output is M', its
    rows one after the other. The first M is the identity, padded with zeros or cut.

    The blocks share the MLP, whose layers have D units with ReLUs between. ``gate_style``:

    - ``"unit"``: D gates for each slot, with a bias of its own for each. Ordered gates rise along
      the slot's units, and uniform and chrono initialization take the width D.
    - ``"memory"``: one gate for each slot. Ordered gates rise along the slots, the initializations
      take their number as the width; a downsized master gate has the mean of its slots' logits.
    - ``"none"`` or None: M' = M̃.

    With ``standard`` and equal biases of all slots this is Sonnet's ``RelationalMemory``, but for
    the scale of q: the article's √key_size, where Sonnet has √(2 key_size + head_size).

    ``key_size``, of keys and queries, is by default ``head_size``. ValueError or TypeError names a
    size that is no positive integer or does not fit the mechanism.

    >>> core = RelationalMemory(10, slots=4, head_size=8, heads=2, mechanism="UR")
    >>> output, memory = core(torch.randn(5, 3, 10))
    >>> output.shape, memory.shape
    (torch.Size([5, 3, 64]), torch.Size([3, 4, 16]))
    """

    core = "rmc"

    def __init__(self, input_size: int, slots: int, head_size: int, heads: int = 1, *,
                 blocks: int = 1, key_size: int | None = None, mlp_layers: int = 2,
                 mechanism: str | Mechanism = "UR", gate_style: str | None = "unit",
                 device: Any = None, dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        key_size = head_size if key_size is None else key_size
        input_size, slots, head_size, heads, blocks, key_size, mlp_layers = positive(
            input_size=input_size, slots=slots, head_size=head_size, heads=heads, blocks=blocks,
            key_size=key_size, mlp_layers=mlp_layers,
        )  # fmt: skip
        self.input_size, self.slots, self.heads = input_size, slots, heads
        self.width = head_size * heads
        self.mechanism = mechanisms.mechanism(mechanism)
        self.gate_style = _checks.choice("gate_style", gate_style or "none", GATE_STYLES)
        self.output_size = slots * self.width
        self.gate_shape = (slots, self.width if self.gate_style == "unit" else 1)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.input = nn.Linear(input_size, self.width, **factory)
        width = self.width
        each = (_Block(width, heads, key_size, **factory) for _ in range(blocks))
        self.blocks: Any = nn.ModuleList(each)
        self.mlp = nn.ModuleList(nn.Linear(width, width, **factory) for _ in range(mlp_layers))
        if self.gate_style != "none":
            self._make_gates(factory)
        self.reset_parameters()

    def _make_gates(self, factory: dict[str, Any]) -> None:
        unit = self.gate_style == "unit"
        self._gate_width = self.width if unit else self.slots
        slots = self.mechanism.slots(_CELL, self._gate_width)
        self._gate_slots = tuple(slot for slot in slots if slot[0] not in _NO_GATES)
        biases = sum(width for _, width in self._gate_slots)
        rows = biases if unit else len(self._gate_slots)
        self.weight_input = nn.Parameter(torch.empty(rows, self.width, **factory))
        self.weight_memory = nn.Parameter(torch.empty(rows, self.width, **factory))
        shape = (self.slots, biases) if unit else (biases,)
        self.gate_bias = nn.Parameter(torch.empty(shape, **factory))

    @torch.no_grad()
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._record_mechanism()
        if self.gate_style == "none" or not has_values(self.gate_bias):
            return
        for weight in (self.weight_input, self.weight_memory):
            nn.init.uniform_(weight, -(self.width**-0.5), self.width**-0.5)
        generator = parameters.generator()
        for row in self.gate_bias.view(-1, self.gate_bias.shape[-1]):
            biases = self.mechanism.biases(_CELL, self._gate_width, generator)
            row.copy_(torch.cat([torch.from_numpy(biases[name]) for name, _ in self._gate_slots]))

    def initial_state(self, batch: int, like: Tensor) -> Tensor:
        identity = torch.eye(self.slots, self.width, dtype=like.dtype, device=like.device)
        return identity.expand(batch, -1, -1)

    def extra_repr(self) -> str:
        sizes = f"slots={self.slots}, head_size={self.width // self.heads}, heads={self.heads}"
        gates = f"mechanism={self.mechanism.name!r}, gate_style={self.gate_style!r}"
        return f"{self.input_size}, {sizes}, {gates}"

    def _project(self, weights: Any, x: Tensor) -> tuple[Tensor, ...]:
        """The input as a row of the memory, its projection in the first block, and in the gates."""
        row = self.input(x).unsqueeze(2)
        projected, gated = (row, self.blocks[0].project(row)), self.gate_style != "none"
        return (*projected, functional.linear(row, self.weight_input)) if gated else projected

    def _step(self, weights: Any, inputs: Any, memory: Tensor) -> tuple[Tensor, Tensor, Gate]:
        row, projected, *from_input = inputs
        candidate = self._attended(memory, row, projected)
        if self.gate_style == "none":
            closed = candidate.new_zeros(len(row), *self.gate_shape)
            return candidate.flatten(1), candidate, Gate(closed, closed + 1)
        forget, input = self._gates(memory, from_input[0])
        input_gate = None if self.mechanism.ties_gates(_CELL) else input
        memory = update(memory, candidate.tanh(), forget, input_gate)
        return memory.flatten(1), memory, forget

    def _attended(self, memory: Tensor, row: Tensor, projected: Tensor) -> Tensor:
        """M̃ (batch, slots, D). The input's row does not attend in the last block: it is dropped."""
        rows = memory if len(self.blocks) == 1 else torch.cat([memory, row], 1)
        for k, block in enumerate(self.blocks):
            attending = rows[:, : self.slots] if k == len(self.blocks) - 1 else rows
            read = block.project(rows) if k else torch.cat([block.project(memory), projected], 1)
            rows = block(attending, read, self.mlp)
        return rows

    def _gates(self, memory: Tensor, from_input: Tensor) -> tuple[Gate, Gate]:
        """Effective forget and input gates (batch, *gate_shape)."""
        logits = functional.linear(memory.tanh(), self.weight_memory) + from_input
        names, widths = zip(*self._gate_slots, strict=True)
        if self.gate_style == "unit":
            parts = (logits + self.gate_bias).split(widths, -1)
            return self.mechanism.gates(dict(zip(names, parts, strict=True)))
        each = zip(widths, logits.unbind(-1), self.gate_bias.split(widths), strict=True)
        means = (part.unflatten(1, (width, -1)).mean(-1) + b for width, part, b in each)
        gates = self.mechanism.gates(dict(zip(names, means, strict=True)))
        forget, input = (Gate(*(side.unsqueeze(-1) for side in gate)) for gate in gates)
        return forget, input


class _Block(nn.Module):
    """Attention of rows (batch, rows, D) to rows, layer normalisation, and the shared MLP."""

    def __init__(self, width: int, heads: int, key_size: int, **factory: Any) -> None:
        super().__init__()
        self.heads, self.sizes = heads, (key_size, key_size, width // heads)
        total = heads * sum(self.sizes)
        self.qkv = nn.Linear(width, total, **factory)
        self.norm_qkv = nn.LayerNorm(total, **factory)
        self.norm_attended = nn.LayerNorm(width, **factory)
        self.norm_mlp = nn.LayerNorm(width, **factory)

    def reset_parameters(self) -> None:
        for module in self.children():
            module.reset_parameters()  # type: ignore[operator]

    def project(self, rows: Tensor) -> Tensor:
        """Queries, keys and values of rows (..., D), packed by head."""
        return self.norm_qkv(self.qkv(rows))

    def forward(self, rows: Tensor, read: Tensor, mlp: nn.ModuleList) -> Tensor:
        """The rows after attention to those of ``read``, of which they are the first."""
        by_head = read.unflatten(-1, (self.heads, -1)).split(self.sizes, -1)
        q, k, v = (part.transpose(1, 2) for part in by_head)
        mixed = functional.scaled_dot_product_attention(q[:, :, : rows.shape[1]], k, v)
        rows = self.norm_attended(rows + mixed.transpose(1, 2).flatten(2))
        inner = mlp[0](rows)
        for layer in list(mlp)[1:]:
            inner = layer(inner.relu())
        return self.norm_mlp(rows + inner)
