"""The Reconstructive Memory Agent's core with any gate mechanism in its controller."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores.base import MemoryCore, positive, renewed, resets_due
from gatecore.backends.torch.memory_cores.controller import Controller, Weights
from gatecore.backends.torch.memory_cores.ring_buffer import Tape, unit
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.mechanisms import Mechanism


class RMAState(NamedTuple):
    """What an RMA keeps, the batch first; S slots, R reads of width L."""

    controller: Any  # for each layer (h, c), both (batch, hidden)
    reads: Tensor  # (batch, R·L)
    memory: Tensor  # (batch, S, L)
    written: Tensor  # (batch,): rows so far, an integer


class Unrolled(NamedTuple):
    """All that the losses of an agent need.

    ``output`` is [z, h of all layers, reads]; ``latents`` z (time, batch, L) is what observations
    are reconstructed from; ``strengths`` β (time, batch, R) is what reading is regularised by.
    """

    output: Tensor
    latents: Tensor
    strengths: Tensor
    state: RMAState


class Weighted(NamedTuple):
    """Weights in the form in which steps use them."""

    features: Tensor  # of the encoder's first layer, for what is known ahead
    feedback: Tensor  # and for the rest, transposed
    controllers: list[Weights]


class RMA(MemoryCore):
    """A memory of all latents, which an LSTM of two layers reads (Hung et al. 2019).

    With h the controller's hidden states and r the last reads,

        z = Linear(tanh(Linear([x, h, r])))
        h = [LSTM_1(z), LSTM_2([z, h_1]), ...]
        keys k, strengths β = softplus, from Linear(h)
        r = Σ w m, w the softmax of the ``nearest`` largest β cos(k, m) over the rows m
        row t mod ``slots`` ← z, through which no gradient flows

    and the output is [z, h, r], which policy and value are made of. Reading comes before writing,
    and rows not yet written are zeros, which are read like others. The mechanism forms the gates of
    the controller's LSTMs. ``unroll`` returns z and β as well, for the losses.

    Parameters
    ----------
    input_size : int
    hidden_size : int
        Of each LSTM.
    layers : int
    latents : int
        Width of z and of the memory.
    slots, reads, nearest : int
    mechanism : str or Mechanism
    device, dtype : of the parameters

    Examples
    --------
    >>> core = RMA(10, 20, latents=8, slots=50)
    >>> output, state = core(torch.randn(5, 3, 10))
    >>> output.shape, state.memory.shape  # 8 + 2 · 20 + 3 · 8
    (torch.Size([5, 3, 72]), torch.Size([3, 50, 8]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int = 256,
        *,
        layers: int = 2,
        latents: int = 200,
        slots: int = 1000,
        reads: int = 3,
        nearest: int = 50,
        mechanism: str | Mechanism = "UR",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        positive(
            input_size=input_size, hidden_size=hidden_size, layers=layers, latents=latents,
            slots=slots, reads=reads, nearest=nearest,
        )  # fmt: skip
        self.input_size, self.hidden_size, self.latents = input_size, hidden_size, latents
        self.slots, self.reads, self.nearest = slots, reads, min(nearest, slots)
        feedback = layers * hidden_size + reads * latents
        self.output_size, self.gate_shape = latents + feedback, (layers, hidden_size)
        factory = {"device": device, "dtype": dtype}
        self.encoder = nn.Linear(input_size + feedback, 2 * latents, **factory)
        self.latent = nn.Linear(2 * latents, latents, **factory)
        self.controllers = nn.ModuleList(
            [
                Controller(latents + bool(k) * hidden_size, hidden_size,
                           mechanism=mechanism, **factory)
                for k in range(layers)
            ]
        )  # fmt: skip
        self.query = nn.Linear(layers * hidden_size, reads * (latents + 1), **factory)

    @property
    def mechanism(self) -> Mechanism:
        """That of the controller."""
        return self.controllers[0].mechanism  # type: ignore[return-value]

    def initial_state(self, batch: int, like: Tensor) -> RMAState:
        zeros = like.new_zeros(batch, self.hidden_size)
        return RMAState(
            tuple((zeros, zeros) for _ in self.controllers),
            like.new_zeros(batch, self.reads * self.latents),
            like.new_zeros(batch, self.slots, self.latents),
            torch.zeros(batch, dtype=torch.int64, device=like.device),
        )

    def extra_repr(self) -> str:
        return (
            f"{self.input_size}, {self.hidden_size}, latents={self.latents}, slots={self.slots}, "
            f"reads={self.reads}, nearest={self.nearest}"
        )

    def unroll(self, x: Tensor, state: Any = None, resets: Tensor | None = None) -> Unrolled:
        """As a call, and the latents and the reads' strengths too."""
        with no_autocast(x.device.type):
            return self._unrolled(x, state, resets, None)

    def _walk(
        self, x: Tensor, state: Any, resets: Tensor | None, seen: list[Gate] | None
    ) -> tuple[Tensor, Any]:
        done = self._unrolled(x, state, resets, seen)
        return done.output, done.state

    def _unrolled(
        self, x: Tensor, state: Any, resets: Tensor | None, seen: list[Gate] | None
    ) -> Unrolled:
        self._check(x, resets)
        steps, batch, _ = x.shape
        controller, reads, memory, written = state or (None, None, None, None)
        fresh = self._fresh(batch, x)
        now: Any = fresh if state is None else (controller, reads)
        tape = Tape(
            memory, written, resets, slots=self.slots, width=self.latents, batch=batch,
            steps=steps, nearest=self.nearest, like=x,
        )  # fmt: skip
        held, due, outputs = self._weighted(), resets_due(resets, steps), []
        for t, features in enumerate(self._features(held, x)):
            if resets is not None and due[t]:
                now = renewed(now, fresh, resets[t])
            latent, now, strengths, gates = self._one(held, features, now, tape, t)
            outputs.append((latent, *(h for h, _ in now[0]), now[1], strengths))
            if seen is not None:
                seen.append(Gate(*(torch.stack(g, 1).double().mean(0) for g in gates)))
        *parts, betas = (torch.stack(part) for part in zip(*outputs, strict=True))
        return Unrolled(
            torch.cat(parts, -1), parts[0], betas, RMAState(now[0], now[1], *tape.kept())
        )

    def _fresh(self, batch: int, like: Tensor) -> tuple[Any, Tensor]:
        """Controller and reads of new sequences."""
        zeros = like.new_zeros(batch, self.hidden_size)
        states = tuple((zeros, zeros) for _ in self.controllers)
        return states, like.new_zeros(batch, self.reads * self.latents)

    def _weighted(self) -> Weighted:
        weight = self.encoder.weight
        return Weighted(
            weight[:, : self.input_size],
            weight[:, self.input_size :].T,
            [controller.held(0) for controller in self.controllers],  # type: ignore[operator]
        )

    def _features(self, held: Weighted, x: Tensor) -> tuple[Tensor, ...]:
        return functional.linear(x, held.features, self.encoder.bias).unbind(0)

    def _one(
        self, held: Weighted, features: Tensor, now: Any, tape: Tape, t: int
    ) -> tuple[Tensor, Any, Tensor, Any]:
        """One step: z, the next (controller, reads), β, and the gates' values and complements."""
        states, reads = now
        feedback = torch.cat([*(h for h, _ in states), reads], -1)
        latent = self.latent(torch.addmm(features, feedback, held.feedback).tanh())
        after, gates, inputs = [], [], latent
        for controller, weights, state in zip(
            self.controllers, held.controllers, states, strict=True
        ):
            new, gate = controller.advance(weights, weights.bias, inputs, state)  # type: ignore[operator]
            after.append(new)
            gates.append(gate)
            inputs = torch.cat([latent, new[0]], -1)
        hidden = torch.cat([h for h, _ in after], -1)
        reads, strengths = self._read(hidden, tape, t)
        tape.write(t, latent)
        return latent, (tuple(after), reads), strengths, zip(*gates, strict=True)

    def _read(self, hidden: Tensor, tape: Tape, t: int) -> tuple[Tensor, Tensor]:
        """Reads (batch, R·L) and strengths (batch, R)."""
        keys, raw = self.query(hidden).split([self.reads * self.latents, self.reads], -1)
        keys, strengths = unit(keys.unflatten(-1, (self.reads, -1))), functional.softplus(raw)
        rows, directions = tape.before(t)
        scores = strengths.unsqueeze(-1) * (keys @ directions.mT)
        scores = functional.pad(scores, (self.nearest, 0))  # first the rows that are zeros
        if tape.alive is not None:
            alive = tape.alive[t, :, : scores.shape[-1]].unsqueeze(1)
            scores = scores.masked_fill(~alive, -torch.inf)
        largest, index = scores.topk(self.nearest, sorted=False)
        weights = torch.zeros_like(scores).scatter(-1, index, largest.softmax(-1))
        return (weights[..., self.nearest :] @ rows).flatten(1), strengths
