"""Rollouts: the steps of episodes with actions drawn from a policy, and their returns."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.torch.rl.actor_critic import Network, PolicyOutput
from gatecore.contracts.environment import Environment, EpisodeBatch


class EnvironmentState(NamedTuple):
    """The current observations, and the last actions, rewards and ends of episodes.

    ``state`` is the core's; it is reset where an episode has ended.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    state: Any = None

    @classmethod
    def first(cls, observation: np.ndarray, state: Any = None) -> "EnvironmentState":
        """That of new episodes."""
        size = len(observation)
        return cls(observation, np.full(size, -1), np.zeros(size, np.float32),
                   np.ones(size, bool), state)  # fmt: skip


class Rollout(NamedTuple):
    """Steps (time, batch, ...): the environment's state before each, the action, its result."""

    observations: np.ndarray
    last_actions: np.ndarray
    last_rewards: np.ndarray
    resets: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray
    scores: np.ndarray


def whole_episodes(network: Network, episodes: EpisodeBatch) -> tuple[Rollout, np.ndarray]:
    """A rollout until each episode has ended once, and which of its steps belong to them."""
    environment = episodes.world
    first = EnvironmentState.first(environment.reset(np.random.default_rng(episodes.seed)))
    rollout, _ = run(
        network, environment, first, action_generator(episodes), environment.horizon, once=True
    )
    return rollout, np.cumsum(rollout.ended, axis=0) - rollout.ended == 0


def run(
    network: Network,
    environment: Environment,
    state: EnvironmentState,
    rng: np.random.Generator,
    steps: int,
    once: bool = False,
) -> tuple[Rollout, EnvironmentState]:
    """At most ``steps`` steps with actions drawn from the policy; the next state.

    With ``once`` no more steps than until every episode has ended once.
    """
    results: list[tuple[np.ndarray, ...]] = []
    over = np.zeros(environment.size, bool)
    for _ in range(steps):
        action, core_state = act(network, state, rng)
        observation, reward, ended, score = environment.step(action)
        results.append((*state[:4], action, reward, ended, score))
        over |= ended
        state = EnvironmentState(
            observation, np.where(ended, -1, action), np.where(ended, np.float32(0), reward),
            ended, core_state,
        )  # fmt: skip
        if once and over.all():
            break
    return Rollout(*(np.stack(part) for part in zip(*results, strict=True))), state


def action_generator(episodes: EpisodeBatch) -> np.random.Generator:
    """The generator of the policy's draws, apart from the environment's."""
    return np.random.default_rng([*episodes.seed, 1])


@torch.no_grad()
def act(
    network: Network, state: EnvironmentState, rng: np.random.Generator
) -> tuple[np.ndarray, Any]:
    """Actions (episodes,) drawn from the policy, and the core's next state."""
    output = apply(network, [part[None] for part in state[:4]], state.state)
    cumulative = output.logits[0].double().softmax(-1).cumsum(-1)[:, :-1].numpy(force=True)
    return (rng.random((len(cumulative), 1)) > cumulative).sum(1), output.state


def apply(network: Network, steps: Sequence[np.ndarray], state: Any = None) -> PolicyOutput:
    """The network's output of steps that follow a state of its core.

    ``steps`` are observations, last actions, last rewards and resets, as ``Rollout`` has them.
    """
    observations, actions, rewards, resets = network.tensors(*steps)
    effective = steps[3] if state is not None else steps[3][1:]  # a new state needs no reset
    return network(observations, actions, rewards, state, resets if effective.any() else None)


def returns(rewards: Tensor, ended: Tensor, after: Tensor, discount: float, trace: float) -> Tensor:
    """The returns of TD(λ), G_t = r_t + γ[(1 − λ) V_{t+1} + λ G_{t+1}] (Sutton & Barto, 12.2).

    All are (time, batch); ``after`` are the values V_{t+1}, of which the last stands for G there,
    too. Nothing follows a step that ``ended`` its episode. γ and λ are ``discount`` and ``trace``.
    """
    result, following = torch.empty_like(rewards), after[-1]
    factors = discount * (~ended).to(rewards.dtype)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + factors[t] * ((1 - trace) * after[t] + trace * following)
        result[t] = following
    return result
