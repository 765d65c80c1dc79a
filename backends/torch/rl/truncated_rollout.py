"""Truncated rollouts: episodes that continue from one training step to the next."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from gatecore.backends.torch.rl.actor_critic import Network
from gatecore.backends.torch.rl.rollout import (
    EnvironmentState,
    Rollout,
    act,
    action_generator,
    run,
)
from gatecore.backends.torch.training.backbone import leaves
from gatecore.contracts.environment import EpisodeBatch


class TruncatedRollout:
    """Parallel episodes, run ``steps`` steps at a time, and their sums of reward and score."""

    def __init__(self, network: Network, episodes: EpisodeBatch, steps: int) -> None:
        self._environment, self._steps = episodes.world, steps
        rng = np.random.default_rng(episodes.seed)
        first = EnvironmentState.first(self._environment.reset(rng))
        core_state = act(network, first, np.random.default_rng(0))[1]  # reset before it is used
        self._state = first._replace(state=core_state)
        self._sums = np.zeros((2, self._environment.size))  # reward and score of each episode
        self._means = np.zeros(2)

    def run(
        self, network: Network, episodes: EpisodeBatch
    ) -> tuple[Rollout, Any, dict[str, float]]:
        """The next rollout, the core's state before it, and mean results.

        The results, ``reward`` and ``score``, are of the episodes that ended; if none did, those of
        the last rollout in which one did.
        """
        before, rng = self._state.state, action_generator(episodes)
        rollout, self._state = run(network, self._environment, self._state, rng, self._steps)
        results = []
        for added, ended in zip(
            np.stack([rollout.rewards, rollout.scores], 1), rollout.ended, strict=True
        ):
            self._sums += added
            results.append(self._sums[:, ended])
            self._sums[:, ended] = 0
        over = np.concatenate(results, axis=1)
        if over.size:
            self._means = over.mean(1)
        return rollout, before, dict(zip(("reward", "score"), self._means.tolist(), strict=True))

    def inputs(self, rollout: Rollout) -> tuple[np.ndarray, ...]:
        """The network's inputs before each step and after the last: (steps + 1, episodes, ...)."""
        return tuple(
            np.concatenate([part, current[None]])
            for part, current in zip(rollout[:4], self._state[:4], strict=True)
        )

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
