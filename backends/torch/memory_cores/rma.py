"""The Reconstructive Memory Agent's core with any gate mechanism in its controller."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores import base
from gatecore.backends.torch.memory_cores.base import Controller, Gates, MemoryCore, Resets, Result
from gatecore.backends.torch.memory_cores.ring_buffer import RingBuffer, unit
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.mechanisms import Mechanism


class RMAState(NamedTuple):
    """The state of an RMA with S slots and R reads of width L; the batch comes first."""

    controller: Any  # for each layer (h, c), both (batch, hidden)
    reads: Tensor  # (batch, R·L)
    memory: Tensor  # (batch, S, L)
    written: Tensor  # (batch,): the integer number of rows so far


torch.serialization.add_safe_globals([RMAState])  # torch.load reads a saved state by its defaults


class Unrolled(NamedTuple):
    """The results of ``RMA.unroll``, of which the losses of an agent are made."""

    output: Tensor  # (time, batch, output): [z, h of all layers, reads]
    latents: Tensor  # z (time, batch, L), from which observations are reconstructed
    strengths: Tensor  # β (time, batch, R), which regularise the reads
    state: RMAState


class _Weights(NamedTuple):
    features: Tensor  # of the encoder's first layer, for x
    feedback: Tensor  # and for h and r, transposed
    controllers: list[base.Weights]
    buffer: RingBuffer


class RMA(MemoryCore):
    """The Reconstructive Memory Agent's core: an LSTM that reads all latents (Hung et al. 2019).

    With h the controller's hidden states and r the last reads,

        z = Linear(tanh(Linear([x, h, r])))
        h = [LSTM_1(z), LSTM_2([z, h_1]), ...]
        keys k, strengths β = softplus, from Linear(h)
        r = Σ w m, w the softmax of the ``nearest`` largest β cos(k, m) over the rows m
        row t mod ``slots`` ← z, through which no gradient flows

    and the output is [z, h, r]. Reading comes before writing; rows not yet written are zeros, which
    are read like others. The mechanism forms the gates of the controller's LSTMs. ``unroll``
    returns z and β as well, for the losses.

    ``hidden_size`` is that of each of the ``layers`` LSTMs, ``latents`` the width of z and of the
    memory's ``slots`` rows, and ``reads`` is the number of reads at each step. A read averages
    ``nearest`` rows, at most ``slots``. ValueError or TypeError names a size that is not positive.

    >>> core = RMA(10, 20, latents=8, slots=50)
    >>> output, state = core(torch.randn(5, 3, 10))
    >>> output.shape, state.memory.shape  # 8 + 2 · 20 + 3 · 8
    (torch.Size([5, 3, 72]), torch.Size([3, 50, 8]))
    """

    def __init__(self, input_size: int, hidden_size: int = 256, *, layers: int = 2,
                 latents: int = 200, slots: int = 1000, reads: int = 3, nearest: int = 50,
                 mechanism: str | Mechanism = "UR", device: Any = None,
                 dtype: Any = None) -> None:  # fmt: skip
        super().__init__()
        input_size, hidden_size, layers, latents, slots, reads, nearest = base.positive(
            input_size=input_size, hidden_size=hidden_size, layers=layers, latents=latents,
            slots=slots, reads=reads, nearest=nearest,
        )  # fmt: skip
        self.input_size, self.hidden_size, self.latents = input_size, hidden_size, latents
        self.slots, self.reads, self.nearest = slots, reads, min(nearest, slots)
        feedback = layers * hidden_size + reads * latents
        self.output_size, self.gate_shape = latents + feedback, (layers, hidden_size)
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.encoder = nn.Linear(input_size + feedback, 2 * latents, **factory)
        self.latent = nn.Linear(2 * latents, latents, **factory)
        widths = [latents] + [latents + hidden_size] * (layers - 1)
        settings = factory | {"mechanism": mechanism}
        self.controllers = nn.ModuleList(Controller(w, hidden_size, **settings) for w in widths)
        self.query = nn.Linear(layers * hidden_size, reads * (latents + 1), **factory)

    @property
    def mechanism(self) -> Mechanism:
        """That of the controller."""
        return self.controllers[0].mechanism  # type: ignore[return-value]

    def initial_state(self, batch: int, like: Tensor) -> RMAState:
        memory = like.new_zeros(batch, self.slots, self.latents)
        written = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return RMAState(*self._fresh(batch, like), memory, written)

    def extra_repr(self) -> str:
        memory = f"latents={self.latents}, slots={self.slots}, reads={self.reads}"
        return f"{self.input_size}, {self.hidden_size}, {memory}, nearest={self.nearest}"

    def unroll(self, x: Tensor, state: Any = None, resets: Resets = None) -> Unrolled:
        """The results of a call, with the latents and the strengths of the reads."""
        with no_autocast(x.device.type):
            return self._unrolled(x, state, resets, None)

    def _run(self, x: Tensor, state: Any, resets: Resets, gates: Gates) -> Result:
        output, _, _, state = self._unrolled(x, state, resets, gates)
        return output, state

    def _unrolled(self, x: Tensor, state: Any, resets: Resets, gates: Gates) -> Unrolled:
        base.check(self, x, state, resets)
        steps, batch, _ = x.shape
        fresh = self._fresh(batch, x)
        start, memory, written = (fresh, None, None) if state is None else (state[:2], *state[2:])
        buffer = RingBuffer(memory, written, resets, slots=self.slots, width=self.latents,
                            batch=batch, steps=steps, nearest=self.nearest, like=x)  # fmt: skip
        outputs, last = self._scan(self._weights(buffer), x, start, fresh, resets, gates)
        *parts, strengths = (torch.stack(part) for part in zip(*outputs, strict=True))
        state = RMAState(last[0], last[1], *buffer.contents())
        return Unrolled(torch.cat(parts, -1), parts[0], strengths, state)

    def _fresh(self, batch: int, like: Tensor) -> tuple[Any, Tensor]:
        """Controller and reads of new sequences."""
        zeros = like.new_zeros(batch, self.hidden_size)
        states = tuple((zeros, zeros) for _ in self.controllers)
        return states, like.new_zeros(batch, self.reads * self.latents)

    def _weights(self, buffer: RingBuffer) -> _Weights:  # type: ignore[override]
        weight = self.encoder.weight
        layers = [controller.weights(0) for controller in self.controllers]  # type: ignore[operator]
        features, feedback = weight[:, : self.input_size], weight[:, self.input_size :].T
        return _Weights(features, feedback, layers, buffer)

    def _project(self, weights: _Weights, x: Tensor) -> tuple[Tensor, ...]:
        return (functional.linear(x, weights.features, self.encoder.bias),)

    def _step(self, weights: _Weights, inputs: Any, state: Any) -> tuple[Any, Any, Gate]:
        """One step; the output is z, h of each layer, the reads and β."""
        states, reads = state
        feedback = torch.cat([*(h for h, _ in states), reads], -1)
        latent = self.latent(torch.addmm(inputs[0], feedback, weights.feedback).tanh())
        following, gates, x = [], [], latent
        layers: Any = zip(self.controllers, weights.controllers, states, strict=True)
        for layer, layer_weights, layer_state in layers:
            layer_state, gate = layer.advance(layer_weights, layer_weights.bias, x, layer_state)
            following.append(layer_state)
            gates.append(gate)
            x = torch.cat([latent, layer_state[0]], -1)
        hidden = [h for h, _ in following]
        reads, strengths = self._read(torch.cat(hidden, -1), weights.buffer)
        weights.buffer.write(latent)
        forget = Gate(*(torch.stack(side, 1) for side in zip(*gates, strict=True)))
        return (latent, *hidden, reads, strengths), (tuple(following), reads), forget

    def _read(self, hidden: Tensor, buffer: RingBuffer) -> tuple[Tensor, Tensor]:
        """Reads (batch, R·L) and strengths (batch, R)."""
        keys, raw = self.query(hidden).split([self.reads * self.latents, self.reads], -1)
        keys, strengths = unit(keys.unflatten(-1, (self.reads, -1))), functional.softplus(raw)
        rows, directions, mask = buffer.read()
        scores = strengths.unsqueeze(-1) * (keys @ directions.mT)
        scores = functional.pad(scores, (self.nearest, 0))  # first the rows that are zeros
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
        largest, index = scores.topk(self.nearest, sorted=False)
        weights = torch.zeros_like(scores).scatter(-1, index, largest.softmax(-1))
        return (weights[..., self.nearest :] @ rows).flatten(1), strengths
