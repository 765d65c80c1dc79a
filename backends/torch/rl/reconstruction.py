"""The Reconstructive Memory Agent's losses beside the actor-critic's."""

import math

from torch import Tensor, nn
from torch.nn import functional

from gatecore.contracts.agent import AgentSpec

IMAGE_COST, READ_COST, FREE_STRENGTH = 50.0, 5e-5, 2.0


class Reconstruction(nn.Module):
    """Reconstruction costs of the RMA (Hung et al. 2019, their equations for RMA).

    The observation, the last action and the last reward are each predicted from the latents z: 50
    times the mean cross-entropy of an image's bytes as probabilities (of other observations half
    the squared error); the cross-entropy of the action; half the squared error of the reward.
    Reading costs 5e-5 Σ max(2, β) of its strengths β.
    """

    def __init__(self, spec: AgentSpec, latents: int) -> None:
        super().__init__()
        self.image = spec.image
        self.observation = nn.Sequential(
            nn.Linear(latents, spec.features),
            nn.ReLU(),
            nn.Linear(spec.features, math.prod(spec.shape)),
        )
        self.action = nn.Linear(latents, spec.actions)
        self.reward = nn.Linear(latents, 1)

    def forward(
        self, latents: Tensor, strengths: Tensor, observations: Tensor, actions: Tensor,
        rewards: Tensor,
    ) -> Tensor:  # fmt: skip
        """Costs (time, batch) of latents (time, batch, L) and strengths (time, batch, reads)."""
        predicted, targets = self.observation(latents), observations.flatten(2).to(latents.dtype)
        if self.image:
            each = functional.binary_cross_entropy_with_logits(
                predicted, targets / 255, reduction="none"
            )
            cost = IMAGE_COST * each.mean(-1)
        else:
            cost = (predicted - targets).square().sum(-1) / 2
        logits = self.action(latents).movedim(-1, 1)
        cost = cost + functional.cross_entropy(logits, actions, ignore_index=-1, reduction="none")
        cost = cost + (self.reward(latents)[..., 0] - rewards).square() / 2
        return cost + READ_COST * strengths.clamp(min=FREE_STRENGTH).sum(-1)
