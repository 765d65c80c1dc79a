"""What a task of reinforcement learning asks of a backend: games to play, and an agent, as data."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gatecore._namespace import Array


class Turn(NamedTuple):
    """What one step of all games of a :class:`World` brings.

    Parameters
    ----------
    observation : array (games, ...)
        What is seen next: of a game that has ended, the first sight of the game after it.
    reward : float32 array (games,)
    ended : bool array (games,)
        Whether the game ended with this step.
    score : float32 array (games,)
        What this step adds to the game's score, by which players are judged; it may be the reward.
    """

    observation: Array
    reward: Array
    ended: Array
    score: Array


class World(abc.ABC):
    """A batch of games that one player plays in step with each other, in NumPy.

    A game that has ended is followed by a new one at once. All that happens is a function of the
    generator given to :meth:`reset` and of the actions.

    Attributes
    ----------
    size : int
        Games side by side.
    actions : int
        Actions are 0..actions-1.
    shape, dtype
        Of one game's observation: uint8 (height, width, 3) or float32 (features,).
    horizon : int
        Steps that a game takes at most.
    """

    size: int
    actions: int
    shape: tuple[int, ...]
    dtype: type[np.uint8] | type[np.float32]
    horizon: int

    @abc.abstractmethod
    def reset(self, rng: np.random.Generator) -> Array:
        """Begin new games, drawn from ``rng`` now and later. Returns what is seen first."""

    @abc.abstractmethod
    def step(self, actions: Array) -> Turn:
        """Take actions (games,)."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of all that the games need to go on elsewhere, of shapes that never change."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Go on from what :meth:`state_dict` returned. Returns what is seen now.

        Raises
        ------
        ValueError
            An entry missing, unknown, or of another shape or type.
        """


class Games(NamedTuple):
    """New games to be played: what a batch is to other tasks.

    The same seed and the same player give the same games, however often.
    """

    world: World
    seed: tuple[int, ...]


def generator_state(rng: np.random.Generator) -> np.ndarray:
    """The state of a PCG64 generator, uint64 (6,)."""
    told: Any = rng.bit_generator.state
    state, increment = told["state"]["state"], told["state"]["inc"]
    low = (1 << 64) - 1
    words = (state >> 64, state & low, increment >> 64, increment & low)
    return np.array([*words, told["has_uint32"], told["uinteger"]], np.uint64)


def set_generator_state(rng: np.random.Generator, state: np.ndarray) -> None:
    """Continue from what :func:`generator_state` returned."""
    words = [int(word) for word in state]
    rng.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": words[0] << 64 | words[1], "inc": words[2] << 64 | words[3]},
        "has_uint32": words[4],
        "uinteger": words[5],
    }
