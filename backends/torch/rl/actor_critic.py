"""The agent's network: an encoder, a core, a policy and a value."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from gatecore.algebra import Gate
from gatecore.backends.torch.memory_cores.factory import recurrent_core
from gatecore.backends.torch.memory_cores.rma import RMA
from gatecore.backends.torch.rl.reconstruction import Reconstruction
from gatecore.contracts.agent import AgentSpec


class PolicyOutput(NamedTuple):
    """The network's output: logits (time, batch, actions), values (time, batch), core state.

    ``cost`` (time, batch) is the core's own part of the loss, if it has one.
    """

    logits: Tensor
    values: Tensor
    state: Any
    cost: Tensor | None = None


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

    def forward(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        state: Any = None,
        resets: Tensor | None = None,
    ) -> PolicyOutput:
        """Policy and value of all steps.

        Parameters
        ----------
        observations : Tensor (time, batch, *shape)
        actions : int Tensor (time, batch)
            The actions before the observations; -1 for none.
        rewards : Tensor (time, batch)
            Their rewards.
        state : optional
            Of the core.
        resets : bool Tensor (time, batch), optional
            Where true, the core's state is that of a new sequence before that step.
        """
        x, cost = self.features(observations, actions, rewards), None
        if self.reconstruction is not None:
            x, latents, strengths, state = self.core.unroll(x, state, resets)
            if torch.is_grad_enabled():
                cost = self.reconstruction(latents, strengths, observations, actions, rewards)
        elif self.core is not None:
            x, state = self.core(x, state, resets)
        return PolicyOutput(self.policy(x), self.value(x)[..., 0], state, cost)

    def forget_gates(
        self, observations: Tensor, actions: Tensor, rewards: Tensor, resets: Tensor
    ) -> Gate:
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
