"""The agent's network: an encoder, a core, a policy and a value, and the RMA's reconstruction."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores.factory import recurrent_core
from gatecore.backends.torch.memory_cores.rma import RMA
from gatecore.contracts.agent import AgentSpec

IMAGE_COST, READ_COST, FREE_STRENGTH = 50.0, 5e-5, 2.0


class PolicyOutput(NamedTuple):
    """The network's output for steps (time, batch), and the state of its core."""

    logits: Tensor  # (time, batch, actions)
    values: Tensor  # (time, batch)
    state: Any
    cost: Tensor | None = None  # (time, batch), the reconstruction's part of the loss


class Network(nn.Module):
    """Observation, last action and last reward to a policy and a value."""

    def __init__(self, spec: AgentSpec) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = _encoder(spec)
        width = spec.features + spec.actions + 1
        self.core: Any = None
        self.reconstruction: Any = None
        if spec.core != "none":
            self.core = recurrent_core(spec, width)
            width = self.core.output_size
        if isinstance(self.core, RMA):
            self.reconstruction = Reconstruction(spec, self.core.latents)
        self.policy = _perceptron(width, spec.heads, spec.actions)
        self.value = _perceptron(width, spec.heads, 1)

    def forward(self, observations: Tensor, actions: Tensor, rewards: Tensor, state: Any = None,
                resets: Tensor | None = None) -> PolicyOutput:  # fmt: skip
        """Policy and value of all steps, from observations (time, batch, *shape).

        ``actions`` (time, batch) came before them, -1 for none, and gave ``rewards``. Where
        ``resets`` is true, the core's state is that of a new sequence before that step.
        """
        x, cost = self.features(observations, actions, rewards), None
        if self.reconstruction is not None:
            x, latents, strengths, state = self.core.unroll(x, state, resets)
            if torch.is_grad_enabled():
                cost = self.reconstruction(latents, strengths, observations, actions, rewards)
        elif self.core is not None:
            x, state = self.core(x, state, resets)
        return PolicyOutput(self.policy(x), self.value(x)[..., 0], state, cost)

    def forget_gates(self, observations: Tensor, actions: Tensor, rewards: Tensor,
                     resets: Tensor) -> Gate:  # fmt: skip
        """The core's effective forget gates, averaged over time and batch: (rows, units)."""
        if self.core is None:
            return Gate(rewards.new_zeros(1, 1), rewards.new_ones(1, 1))
        x = self.features(observations, actions, rewards)
        return self.core.forget_gates(x, None, resets)

    def tensors(self, *arrays: np.ndarray) -> tuple[Tensor, ...]:
        """NumPy arrays as tensors on the network's device; floating ones in its dtype."""
        like = next(self.policy.parameters())
        tensors = (torch.as_tensor(array, device=like.device) for array in arrays)
        return tuple(t.to(like.dtype) if t.is_floating_point() else t for t in tensors)

    def features(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
        """The core's input, (time, batch, features + actions + 1)."""
        frames = observations.flatten(0, 1).to(rewards.dtype)
        if self.spec.image:
            frames = (frames.permute(0, 3, 1, 2) - self.spec.background) / 255
        encoded = self.encoder(frames).view(*actions.shape, -1)
        one_hot = torch.eye(self.spec.actions + 1, self.spec.actions).to(rewards)[actions]
        return torch.cat([encoded, one_hot, rewards.unsqueeze(-1)], -1)


class Reconstruction(nn.Module):
    """Reconstruction costs of the RMA (Hung et al. 2019, their equations for RMA).

    The observation, the last action and the last reward are each predicted from the latents z: 50
    times the mean cross-entropy of an image's bytes as probabilities (of other observations half
    the squared error); the cross-entropy of the action; half the squared error of the reward.
    Reading costs 5e-5 Σ max(2, β) of its strengths β.
    """

    def __init__(self, spec: AgentSpec, latents: int) -> None:
        super().__init__()
        self.image, size = spec.image, math.prod(spec.shape)
        layers = nn.Linear(latents, spec.features), nn.ReLU(), nn.Linear(spec.features, size)
        self.observation = nn.Sequential(*layers)
        self.action = nn.Linear(latents, spec.actions)
        self.reward = nn.Linear(latents, 1)

    def forward(self, latents: Tensor, strengths: Tensor, observations: Tensor, actions: Tensor,
                rewards: Tensor) -> Tensor:  # fmt: skip
        """Costs (time, batch) of latents (time, batch, L) and strengths (time, batch, reads)."""
        predicted, targets = self.observation(latents), observations.flatten(2).to(latents.dtype)
        if self.image:
            entropy = functional.binary_cross_entropy_with_logits
            cost = IMAGE_COST * entropy(predicted, targets / 255, reduction="none").mean(-1)
        else:
            cost = (predicted - targets).square().sum(-1) / 2
        logits = self.action(latents).movedim(-1, 1)
        cost = cost + functional.cross_entropy(logits, actions, ignore_index=-1, reduction="none")
        cost = cost + (self.reward(latents)[..., 0] - rewards).square() / 2
        return cost + READ_COST * strengths.clamp(min=FREE_STRENGTH).sum(-1)


def _encoder(spec: AgentSpec) -> nn.Module:
    if not spec.image:
        return _initialised(nn.Linear(spec.shape[0], spec.features), spec.gain)
    height, width, depth = spec.shape
    parts: list[nn.Module] = []
    for channels in spec.channels:
        parts += [_initialised(nn.Conv2d(depth, channels, 3, padding=1)), nn.ReLU()]
        depth = channels
    last = nn.Linear(height * width * depth, spec.features)
    return nn.Sequential(*parts, nn.Flatten(), _initialised(last, spec.gain))


def _perceptron(inputs: int, widths: tuple[int, ...], outputs: int) -> nn.Module:
    parts: list[nn.Module] = []
    for width in widths:
        parts += [_initialised(nn.Linear(inputs, width)), nn.ReLU()]
        inputs = width
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


def _initialised(layer: nn.Linear | nn.Conv2d, gain: float = 1.0) -> nn.Module:
    """With weights N(0, 2/inputs) times ``gain`` (He et al. 2015), and no bias."""
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    with torch.no_grad():
        layer.weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer
