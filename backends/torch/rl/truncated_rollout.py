"""Games that go on from one training step to the next."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.torch.rl.actor_critic import Network
from gatecore.backends.torch.rl.rollout import Played, Position, act, action_generator, play
from gatecore.contracts.environment import Games


class Ongoing:
    """A batch of games, where they stand, and what they have brought so far.

    Parameters
    ----------
    network : Network
    games : Games
        How they begin.
    steps : int
        How far they go at a time.
    """

    def __init__(self, network: Network, games: Games, steps: int) -> None:
        self._world, self._steps = games.world, steps
        rng = np.random.default_rng(games.seed)
        first = Position.first(self._world.reset(rng))
        state = act(network, first, np.random.default_rng(0))[1]  # forgotten before it is used
        self._position = Position.first(first.observation, state)
        self._sums = np.zeros((2, self._world.size))  # reward and score of each game so far
        self._told = np.zeros(2)

    def play(self, network: Network, games: Games) -> tuple[Played, Any, dict[str, float]]:
        """Go on: what happened, the core's state before it, and mean results.

        The results, ``reward`` and ``score``, are of the games that ended; if none did, those of
        the last ones that had.
        """
        before = self._position.state
        rng = action_generator(games)
        played, self._position = play(network, self._world, self._position, rng, self._steps)
        results = []
        for won, ended in zip(
            np.stack([played.rewards, played.scores], 1), played.ended, strict=True
        ):
            self._sums += won
            results.append(self._sums[:, ended])
            self._sums[:, ended] = 0
        over = np.concatenate(results, axis=1)
        if over.size:
            self._told = over.mean(1)
        return played, before, dict(zip(("reward", "score"), self._told.tolist(), strict=True))

    def observed(self, played: Played) -> tuple[np.ndarray, ...]:
        """What was there before each step, and what is there now: (steps + 1, games, ...)."""
        return tuple(
            np.concatenate([part, now[None]])
            for part, now in zip(played[:4], self._position[:4], strict=True)
        )

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all this by flat name."""
        state = {f"world.{name}": part for name, part in self._world.state_dict().items()}
        state |= {f"position.{name}": part.copy() for name, part in self._plain().items()}
        for k, tensor in enumerate(leaves(self._position.state)):
            state[f"core.{k}"] = tensor.cpu().numpy().copy()
        return state | {"sums": self._sums.copy(), "told": self._told.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` returned, of the right shapes."""
        world = {k.removeprefix("world."): v for k, v in state.items() if k.startswith("world.")}
        self._world.load_state_dict(world)
        for k, tensor in enumerate(leaves(self._position.state)):
            tensor.copy_(torch.tensor(np.asarray(state[f"core.{k}"])))
        plain = {name: np.array(state[f"position.{name}"]) for name in self._plain()}
        self._position = self._position._replace(**plain)
        self._sums, self._told = np.array(state["sums"]), np.array(state["told"])

    def _plain(self) -> dict[str, np.ndarray]:
        return {k: v for k, v in self._position._asdict().items() if k != "state"}


def leaves(state: Any) -> list[Tensor]:
    """The tensors of a core's state, which is a tensor, None, or a nest of tuples of them."""
    if state is None:
        return []
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]
