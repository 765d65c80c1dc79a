"""Games played by a network: what happened, step by step, and where they stand."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.torch.rl.actor_critic import Network, Said
from gatecore.contracts.environment import Games, World


class Position(NamedTuple):
    """Where games stand: what is seen, what was done and won last, whether that ended the game.

    ``state`` is the core's; it is forgotten where a game has ended.
    """

    observation: np.ndarray
    action: np.ndarray
    reward: np.ndarray
    ended: np.ndarray
    state: Any = None

    @classmethod
    def first(cls, observation: np.ndarray, state: Any = None) -> "Position":
        """New games."""
        size = len(observation)
        return cls(observation, np.full(size, -1), np.zeros(size, np.float32),
                   np.ones(size, bool), state)  # fmt: skip


class Played(NamedTuple):
    """Steps of games (time, batch, ...): the position before each, the action, what it brought."""

    observations: np.ndarray
    last_actions: np.ndarray
    last_rewards: np.ndarray
    resets: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    ended: np.ndarray
    scores: np.ndarray


def play_through(network: Network, games: Games) -> tuple[Played, np.ndarray]:
    """Games from their beginning until each has ended, and which steps belong to them."""
    world = games.world
    rng = action_generator(games)
    start = Position.first(world.reset(np.random.default_rng(games.seed)))
    played, _ = play(network, world, start, rng, world.horizon, once=True)
    return played, np.cumsum(played.ended, axis=0) - played.ended == 0


def play(
    network: Network,
    world: World,
    position: Position,
    rng: np.random.Generator,
    steps: int,
    once: bool = False,
) -> tuple[Played, Position]:
    """At most ``steps`` steps from a position, with actions drawn from the policy.

    With ``once`` no longer than until every game has ended once.
    """
    told: list[tuple[np.ndarray, ...]] = []
    over = np.zeros(world.size, bool)
    for _ in range(steps):
        action, state = act(network, position, rng)
        turn = world.step(action)
        told.append((*position[:4], action, turn.reward, turn.ended, turn.score))
        over |= turn.ended
        position = Position(
            turn.observation, np.where(turn.ended, -1, action),
            np.where(turn.ended, np.float32(0), turn.reward), turn.ended, state,
        )  # fmt: skip
        if once and over.all():
            break
    return Played(*(np.stack(part) for part in zip(*told, strict=True))), position


def action_generator(games: Games) -> np.random.Generator:
    """The player's own draws; the world has others."""
    return np.random.default_rng([*games.seed, 1])


@torch.no_grad()
def act(network: Network, position: Position, rng: np.random.Generator) -> tuple[np.ndarray, Any]:
    """Actions (games,) drawn from the policy, and the core's next state."""
    said = say(network, [part[None] for part in position[:4]], position.state)
    chances = said.logits[0].double().softmax(-1).cumsum(-1)[:, :-1].numpy(force=True)
    return (rng.random((len(chances), 1)) > chances).sum(1), said.state


def say(network: Network, steps: Sequence[np.ndarray], state: Any = None) -> Said:
    """What the network says of steps that follow a state of its core.

    ``steps`` are observations, last actions, last rewards, resets: the first four of ``Played``.
    """
    observations, actions, rewards, resets = network.tensors(*steps)
    needed = steps[3] if state is not None else steps[3][1:]  # a new state has nothing to forget
    return network(observations, actions, rewards, state, resets if needed.any() else None)


def returns(rewards: Tensor, ended: Tensor, after: Tensor, discount: float, trace: float) -> Tensor:
    """The returns of TD(λ), G_t = r_t + γ[(1 − λ) V_{t+1} + λ G_{t+1}] (Sutton & Barto, 12.2).

    Parameters
    ----------
    rewards : Tensor (time, batch)
        What each step brought.
    ended : bool Tensor (time, batch)
        Whether the game ended with it: nothing follows then.
    after : Tensor (time, batch)
        The value V_{t+1} of what follows each step; the last one stands for G there, too.
    discount, trace : float
        γ and λ.

    Returns
    -------
    Tensor (time, batch)
    """
    found, following = torch.empty_like(rewards), after[-1]
    goes_on = discount * (~ended).to(rewards.dtype)
    for t in reversed(range(len(rewards))):
        following = rewards[t] + goes_on[t] * ((1 - trace) * after[t] + trace * following)
        found[t] = following
    return found
