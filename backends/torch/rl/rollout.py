"""Rollouts: the steps of episodes with actions drawn from a policy, and their returns."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.torch.rl.actor_critic import Network, PolicyOutput
from gatecore.backends.torch.training.backbone import leaves
from gatecore.contracts.environment import Environment, EpisodeBatch

Generator = np.random.Generator
Metrics = dict[str, float]


class EnvironmentState(NamedTuple):
    """The current observations, and the last actions, rewards and ends of episodes."""

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    state: Any = None  # of the core, reset where an episode has ended

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
    environment = episodes.environment
    first = EnvironmentState.first(environment.reset(np.random.default_rng(episodes.seed)))
    rng = action_generator(episodes)
    rollout, _ = run(network, environment, first, rng, environment.horizon, once=True)
    return rollout, np.cumsum(rollout.ended, axis=0) - rollout.ended == 0


def run(network: Network, environment: Environment, state: EnvironmentState, rng: Generator,
        steps: int, once: bool = False) -> tuple[Rollout, EnvironmentState]:  # fmt: skip
    """A rollout of ``steps`` steps, ``once`` only until every episode has ended; the next state."""
    results: list[tuple[np.ndarray, ...]] = []
    over = np.zeros(environment.size, bool)
    for _ in range(steps):
        action, core_state = act(network, state, rng)
        observation, reward, ended, score = environment.step(action)
        results.append((*state[:4], action, reward, ended, score))
        over |= ended
        action, reward = np.where(ended, -1, action), np.where(ended, np.float32(0), reward)
        state = EnvironmentState(observation, action, reward, ended, core_state)
        if once and over.all():
            break
    return Rollout(*(np.stack(part) for part in zip(*results, strict=True))), state


def action_generator(episodes: EpisodeBatch) -> Generator:
    """The generator of the policy's draws, apart from the environment's."""
    return np.random.default_rng([*episodes.seed, 1])


@torch.no_grad()
def act(network: Network, state: EnvironmentState, rng: Generator) -> tuple[np.ndarray, Any]:
    """Actions (episodes,) drawn from the policy, and the core's next state."""
    output = apply(network, [part[None] for part in state[:4]], state.state)
    cumulative = output.logits[0].double().softmax(-1).cumsum(-1)[:, :-1].numpy(force=True)
    return (rng.random((len(cumulative), 1)) > cumulative).sum(1), output.state


def apply(network: Network, steps: Sequence[np.ndarray], state: Any = None) -> PolicyOutput:
    """The network's output of steps, the first four parts of a ``Rollout``, after ``state``."""
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


class TruncatedRollout:
    """Parallel episodes, run ``steps`` steps at a time, and their sums of reward and score."""

    def __init__(self, network: Network, episodes: EpisodeBatch, steps: int) -> None:
        self._environment, self._steps = episodes.environment, steps
        rng = np.random.default_rng(episodes.seed)
        first = EnvironmentState.first(self._environment.reset(rng))
        core_state = act(network, first, np.random.default_rng(0))[1]  # reset before it is used
        self._state = first._replace(state=core_state)
        self._sums = np.zeros((2, self._environment.size))  # reward and score of each episode
        self._means = np.zeros(2)

    def run(self, network: Network, episodes: EpisodeBatch) -> tuple[Rollout, Any, Metrics]:
        """The next rollout, the core's state before it, and mean reward and score of episodes."""
        # of those that ended; if none did, of those of the last rollout in which one did
        before, rng = self._state.state, action_generator(episodes)
        rollout, self._state = run(network, self._environment, self._state, rng, self._steps)
        results, rewards = [], np.stack([rollout.rewards, rollout.scores], 1)
        for added, ended in zip(rewards, rollout.ended, strict=True):
            self._sums += added
            results.append(self._sums[:, ended])
            self._sums[:, ended] = 0
        over = np.concatenate(results, axis=1)
        self._means = over.mean(1) if over.size else self._means
        return rollout, before, dict(zip(("reward", "score"), self._means.tolist(), strict=True))

    def inputs(self, rollout: Rollout) -> tuple[np.ndarray, ...]:
        """The network's inputs before each step and after the last: (steps + 1, episodes, ...)."""
        parts = zip(rollout[:4], self._state[:4], strict=True)
        return tuple(np.concatenate([part, current[None]]) for part, current in parts)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the whole state by flat name."""
        state = {f"world.{name}": part for name, part in self._environment.state_dict().items()}
        state |= {f"position.{name}": part.copy() for name, part in self._arrays().items()}
        for k, tensor in enumerate(leaves(self._state.state)):
            state[f"core.{k}"] = tensor.cpu().numpy().copy()
        return state | {"sums": self._sums.copy(), "told": self._means.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of :meth:`state_dict`, of the right shapes."""
        world = {k.removeprefix("world."): v for k, v in state.items() if k.startswith("world.")}
        self._environment.load_state_dict(world)
        for k, tensor in enumerate(leaves(self._state.state)):
            tensor.copy_(torch.tensor(np.asarray(state[f"core.{k}"])))
        arrays = {name: np.array(state[f"position.{name}"]) for name in self._arrays()}
        self._state = self._state._replace(**arrays)
        self._sums, self._means = np.array(state["sums"]), np.array(state["told"])

    def _arrays(self) -> dict[str, np.ndarray]:
        return {k: v for k, v in self._state._asdict().items() if k != "state"}
