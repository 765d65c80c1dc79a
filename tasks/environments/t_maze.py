"""The passive T-maze: a cue at the first step names the arm at a corridor's end."""

from typing import ClassVar

import numpy as np

from gatecore import _checks
from gatecore.tasks.environments.base import Advance, ArrayEnvironment

RIGHT, UP, LEFT, DOWN = range(4)
_ALONG, _ASIDE = np.array([[1, 0, -1, 0], [0, 1, 0, -1]])  # of each action


class TMaze(ArrayEnvironment):
    """A corridor with a junction at its end; the cue at the first step names the arm to take.

    The passive T-maze of Ni et al. (*When do transformers shine in RL? Decoupling memory from
    credit assignment*, 2023), after Bakker (2001). An episode has ``length`` + 1 steps, the length
    of the shortest path. Actions are right, up, left, down (0..3); a wall stops the agent.

    Each step but the last has the reward −1/``length`` unless the agent is then where it would be
    after going right at every step. The last has the reward 1 if it leads from the junction to the
    cued arm, else 0. The score is their sum: at most 1, without memory 1/2, standing still −1.

    An observation has two numbers: 1 at the junction, else 0; and the cue (1 for up, −1 for down)
    at the first step, else 0. The positions in the corridor look alike.

    There are ``size`` episodes in parallel. ``position`` and ``frame``, int64 (size,), are the
    distances from the start and the numbers of steps taken; ``cue``, float32 (size,), is 1 or −1.
    TypeError or ValueError if a size or length is no integer of at least 1.

    >>> environment = TMaze(2, length=3)
    >>> environment.reset(0)[:, 1] == environment.cue
    array([ True,  True])
    >>> environment.step(np.array([RIGHT, LEFT])).reward
    array([ 0.        , -0.33333334], dtype=float32)
    """

    actions = 4
    shape = (2,)
    dtype = np.float32
    state_names: ClassVar = ("position", "frame", "cue")

    def __init__(self, size: int, length: int = 50) -> None:
        self.size = _checks.integer("size", size)
        self.length = _checks.integer("length", length)
        self.horizon = self.length + 1
        self.position, self.frame = np.zeros((2, self.size), np.int64)
        self.cue = np.zeros(self.size, np.float32)
        self.reset(0)

    def advance(self, actions: np.ndarray) -> Advance:
        actions = self._check_actions(actions)
        self.frame += 1
        ended = self.frame == self.horizon
        success = ended & (self.position == self.length) & (_ASIDE[actions] == self.cue)
        self.position = np.clip(self.position + _ALONG[actions], 0, self.length)
        late = ~ended & (self.position < self.frame)
        reward = (success - late / self.length).astype(np.float32)
        return reward, ended, reward.copy()

    def observe(self) -> np.ndarray:
        """The junction indicator and the cue, float32 (size, 2)."""
        cue = np.where(self.frame == 0, self.cue, np.float32(0))
        return np.stack([self.position == self.length, cue], axis=1).astype(np.float32)

    def renew(self, episodes: np.ndarray) -> None:
        self.position[episodes] = self.frame[episodes] = 0
        self.cue[episodes] = 2 * self._rng.integers(2, size=len(episodes)) - 1
