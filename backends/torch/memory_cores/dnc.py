"""The Differentiable Neural Computer with any gate mechanism in its controller."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore import _checks
from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores.base import Controller, MemoryCore, Weights, positive
from gatecore.mechanisms import Mechanism

EPSILON = 1e-6  # of the reference's norms and usages


class DNCState(NamedTuple):
    """The state of a DNC with N slots of width W and R reads; the batch comes first."""

    hidden: Tensor  # (batch, hidden), the controller's, as cell
    cell: Tensor
    reads: Tensor  # (batch, R, W)
    memory: Tensor  # (batch, N, W)
    read_weights: Tensor  # (batch, R, N)
    write_weights: Tensor  # (batch, N)
    link: Tensor  # (batch, N, N): entry (i, j) is the degree to which i was written after j
    precedence: Tensor  # (batch, N)
    usage: Tensor  # (batch, N)


torch.serialization.add_safe_globals([DNCState])  # torch.load reads a saved state by its defaults


class DNC(MemoryCore):
    """The Differentiable Neural Computer (Graves et al. 2016) with one write head.

    The equations have the form of DeepMind's code. The controller is an LSTM whose input is x and
    the last reads; its h and c are clipped. From h, linearly: read keys and strengths; write key,
    strength and vector; erase vector, free gates, allocation gate and write gate (sigmoids); read
    modes backward, forward and content (a softmax for each read). Then

        u ← u + (1 − u) w^w, held constant; u ← u Π_r (1 − f_r w^r)
        content(M, k, β) = softmax(softplus(β) cos(k, M))
        a = (1 − u_j) Π (the smaller u), with u ← ε + (1 − ε) u
        w^w = g_w (g_a a + (1 − g_a) content(M, write key));  M ← M (1 − w^w eᵀ) + w^w vᵀ
        L_ij ← (1 − w_i − w_j) L_ij + w_i p_j, 0 where i = j;  p ← (1 − Σ w) p + w
        w^r ← π_b Lᵀ w^r + π_f L w^r + π_c content(M, read key);  r = Mᵀ w^r

    and the output is Linear([h, r]), clipped. ε = 1e-6 also keeps the norms of the cosine from 0.

    ``hidden_size`` is that of the controller, whose gates the mechanism forms; ``output_size`` is
    by default the same. ``slots``, ``width`` and ``reads`` are N, W and R. ``clip``, above 0, is
    the largest magnitude of h, c and the output; None does not clip. ValueError or TypeError names
    a size that is no positive integer, or ``clip``.

    >>> core = DNC(10, 20, mechanism="UR")
    >>> output, state = core(torch.randn(5, 3, 10))
    >>> output.shape, state.memory.shape
    (torch.Size([5, 3, 20]), torch.Size([3, 16, 16]))
    """

    def __init__(self, input_size: int, hidden_size: int, output_size: int | None = None, *,
                 slots: int = 16, width: int = 16, reads: int = 4,
                 mechanism: str | Mechanism = "UR", clip: float | None = 20.0, device: Any = None,
                 dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        output_size = hidden_size if output_size is None else output_size
        input_size, hidden_size, output_size, slots, width, reads = positive(
            input_size=input_size, hidden_size=hidden_size, output_size=output_size, slots=slots,
            width=width, reads=reads,
        )  # fmt: skip
        clip = None if clip is None else _checks.number("clip", clip)
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be above 0, or None, got {clip}")
        self.input_size, self.output_size, self.clip = input_size, output_size, clip
        self.slots, self.width, self.reads = slots, width, reads
        self.gate_shape = (1, hidden_size)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        inputs = input_size + reads * width
        self.controller = Controller(inputs, hidden_size, mechanism=mechanism, **factory)
        self._sizes = (reads * width, reads, width, 1, width, width, reads, 1, 1, 3 * reads)
        self.interface = nn.Linear(hidden_size, sum(self._sizes), **factory)
        self.output = nn.Linear(hidden_size + reads * width, output_size, **factory)

    @property
    def mechanism(self) -> Mechanism:
        """That of the controller."""
        return self.controller.mechanism

    def initial_state(self, batch: int, like: Tensor) -> DNCState:
        n, w, r, h = self.slots, self.width, self.reads, self.controller.hidden_size
        shapes = ((h,), (h,), (r, w), (n, w), (r, n), (n,), (n, n), (n,), (n,))
        return DNCState(*(like.new_zeros(batch, *shape) for shape in shapes))

    def extra_repr(self) -> str:
        sizes = f"{self.input_size}, {self.controller.hidden_size}, {self.output_size}"
        memory = f"slots={self.slots}, width={self.width}, reads={self.reads}"
        return f"{sizes}, {memory}, clip={self.clip}"

    def _weights(self) -> Weights:
        return self.controller.weights(self.input_size)

    def _project(self, weights: Weights, x: Tensor) -> tuple[Tensor, ...]:
        return (self.controller.project(weights, x),)

    def _step(self, weights: Weights, inputs: Any, state: Any) -> tuple[Tensor, DNCState, Gate]:
        reads, *access = state[2:]
        states, forget = self.controller.advance(weights, inputs[0], reads.flatten(1), state[:2])
        hidden, cell = map(self._clipped, states)
        reads, access = self._access(hidden, *access)
        output = torch.cat([hidden, reads.flatten(1)], 1)
        forget = Gate(*(side.unsqueeze(1) for side in forget))
        return output, DNCState(hidden, cell, reads, *access), forget

    def _finish(self, outputs: Tensor) -> Tensor:
        return self._clipped(self.output(outputs))

    def _clipped(self, x: Tensor) -> Tensor:
        return x if self.clip is None else x.clamp(-self.clip, self.clip)

    def _access(self, hidden: Tensor, memory: Tensor, read_weights: Tensor, write_weights: Tensor,
                link: Tensor, precedence: Tensor,
                usage: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:  # fmt: skip
        """The reads (batch, R, W), and the memory's next state."""
        parts = self.interface(hidden).split(self._sizes, -1)
        read_keys, read_strengths, write_key, write_strength, vector, *gates, modes = parts
        erase, free, allocation, writing = map(torch.sigmoid, gates)
        usage = usage + (1 - usage) * write_weights.detach()
        usage = usage * (1 - free.unsqueeze(-1) * read_weights).prod(1)
        by_content = content(memory, write_key.unsqueeze(1), write_strength).squeeze(1)
        w = writing * (allocation * allocated(usage) + (1 - allocation) * by_content)
        column, row = w.unsqueeze(2), w.unsqueeze(1)
        memory = memory * (1 - column * erase.unsqueeze(1)) + column * vector.unsqueeze(1)
        link = (1 - column - row) * link + column * precedence.unsqueeze(1)
        link = link.masked_fill(torch.eye(self.slots, dtype=torch.bool, device=w.device), 0)
        precedence = (1 - w.sum(-1, keepdim=True)) * precedence + w
        keys = read_keys.unflatten(-1, (self.reads, -1))
        modes = modes.unflatten(-1, (self.reads, 3)).softmax(-1).unsqueeze(-1)
        backward, forward, content_mode = modes.unbind(2)
        moved = backward * (read_weights @ link) + forward * (read_weights @ link.mT)
        read_weights = moved + content_mode * content(memory, keys, read_strengths)
        return read_weights @ memory, (memory, read_weights, w, link, precedence, usage)


def content(memory: Tensor, keys: Tensor, strengths: Tensor) -> Tensor:
    """Weights (batch, R, N) of slots (batch, N, W) by their similarity to keys (batch, R, W)."""
    norms = _norm(keys) * _norm(memory).mT
    similarity = keys @ memory.mT / (norms + EPSILON)
    return (functional.softplus(strengths).unsqueeze(-1) * similarity).softmax(-1)


def allocated(usage: Tensor) -> Tensor:
    """Allocation weights (batch, N): the least used slot first."""
    unused = 1 - (EPSILON + (1 - EPSILON) * usage)
    free, order = unused.sort(dim=-1, descending=True, stable=True)
    used_before = functional.pad((1 - free[:, :-1]).cumprod(-1), (1, 0), value=1.0)
    return torch.zeros_like(usage).scatter(-1, order, free * used_before)


def _norm(vectors: Tensor) -> Tensor:
    return (vectors.square().sum(-1, keepdim=True) + EPSILON).sqrt()
