"""Reinforcement learning environments, as the tasks provide them and an agent uses them."""

import abc
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from gatecore._namespace import Array


class StepResult(NamedTuple):
    """The result of one step of an :class:`Environment`.

    ``observation`` (episodes, ...) is the next one; of an episode that has ended, the first of the
    episode after it. ``reward`` and ``score`` are float32 (episodes,): the latter is the step's
    part of the episode's score, by which policies are compared, often the reward. ``ended``, bool
    (episodes,), is whether the episode ended with this step.
    """

    observation: Array
    reward: Array
    ended: Array
    score: Array


class Environment(abc.ABC):
    """A vectorised environment in NumPy: episodes that are stepped together.

    An episode that has ended is followed by a new one at once. All randomness comes from the
    generator given to :meth:`reset`. There are ``size`` parallel episodes of at most ``horizon``
    steps; actions are 0..``actions`` - 1; ``shape`` and ``dtype`` are those of one observation,
    uint8 (height, width, 3) or float32 (features,).
    """

    size: int
    actions: int
    shape: tuple[int, ...]
    dtype: type[np.uint8] | type[np.float32]
    horizon: int

    @abc.abstractmethod
    def reset(self, rng: np.random.Generator) -> Array:
        """Start new episodes, drawn from ``rng`` now and later. Returns the first observations."""

    @abc.abstractmethod
    def step(self, actions: Array) -> StepResult:
        """Take actions (episodes,)."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the whole state, in arrays whose shapes never change."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Continue from a result of :meth:`state_dict`. Returns the current observations.

        ValueError if an entry is missing, unknown, or of another shape or dtype.
        """


class EpisodeBatch(NamedTuple):
    """A batch of new episodes in an environment, as an agent takes it.

    Equal seeds and equal policies give equal episodes.
    """

    environment: Environment
    seed: tuple[int, ...]


def generator_state(rng: np.random.Generator) -> np.ndarray:
    """The state of a PCG64 generator, uint64 (6,)."""
    state: Any = rng.bit_generator.state
    low, words = (1 << 64) - 1, []
    for word in (state["state"]["state"], state["state"]["inc"]):
        words += [word >> 64, word & low]
    return np.array([*words, state["has_uint32"], state["uinteger"]], np.uint64)


def set_generator_state(rng: np.random.Generator, state: np.ndarray) -> None:
    """Continue from a result of :func:`generator_state`."""
    high, low, inc_high, inc_low, has_uint32, uinteger = map(int, state)
    words = {"state": high << 64 | low, "inc": inc_high << 64 | inc_low}
    rng.bit_generator.state = {
        "bit_generator": "PCG64", "state": words, "has_uint32": has_uint32, "uinteger": uinteger,
    }  # fmt: skip


World, Turn, Games = Environment, StepResult, EpisodeBatch  # the former names
