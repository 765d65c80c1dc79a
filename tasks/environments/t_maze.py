"""The passive T-maze: a cue at the first step names the arm at a corridor's end."""

from typing import ClassVar

import numpy as np

from gatecore import _checks
from gatecore.contracts.environment import Turn
from gatecore.tasks.environments.base import SavedWorld

RIGHT, UP, LEFT, DOWN = range(4)
_ALONG = np.array([1, 0, -1, 0])
_ASIDE = np.array([0, 1, 0, -1])


class TMaze(SavedWorld):
    """Go along a corridor, and at its end to the arm that the first step named.

    The passive T-maze of Ni et al. (*When do transformers shine in RL? Decoupling memory from
    credit assignment*, 2023), after Bakker (2001). A game takes ``length`` + 1 steps, as many as
    the shortest way. The actions are to step right, up, left, down (0..3); a wall leaves the player
    where it is. Each step but the last brings −1/``length`` unless it leads to where a player that
    went right at all steps is; the last brings 1 if it leads from the junction to the arm of the
    cue, else 0. So the best score is 1, of a player without memory 1/2, and who stands still scores
    −1. The score is the reward.

    What is seen has two numbers: whether the player is at the junction (0 or 1), and the cue (1 for
    up, −1 for down) at the first step, then 0. The places of the corridor look alike.

    Parameters
    ----------
    size : int
        Games side by side.
    length : int
        Steps from the start to the junction.

    Attributes
    ----------
    position, frame : int64 array (size,)
        Steps from the start, and how many were taken.
    cue : float32 array (size,)
        1 or −1.
    """

    actions = 4
    shape = (2,)
    dtype = np.float32
    position: np.ndarray
    frame: np.ndarray
    cue: np.ndarray
    kept: ClassVar = ("position", "frame", "cue")

    def __init__(self, size: int, length: int = 50) -> None:
        self.size = _checks.integer("size", size)
        self.length = _checks.integer("length", length)
        self.horizon = self.length + 1
        self.position = np.zeros(self.size, np.int64)
        self.frame = np.zeros(self.size, np.int64)
        self.cue = np.zeros(self.size, np.float32)
        self.reset(0)

    def step(self, actions: np.ndarray) -> Turn:
        actions = self._checked(actions)
        self.frame += 1
        ended = self.frame == self.horizon
        found = ended & (self.position == self.length) & (_ASIDE[actions] == self.cue)
        self.position = np.clip(self.position + _ALONG[actions], 0, self.length)
        late = ~ended & (self.position < self.frame)
        reward = (found - late / self.length).astype(np.float32)
        self.renew(np.flatnonzero(ended))
        return Turn(self.observe(), reward, ended, reward.copy())

    def observe(self) -> np.ndarray:
        """Whether at the junction, and the cue while it is shown: float32 (games, 2)."""
        cue = np.where(self.frame == 0, self.cue, np.float32(0))
        return np.stack([self.position == self.length, cue], axis=1).astype(np.float32)

    def renew(self, games: np.ndarray) -> None:
        """Replace games by new ones, with cues of their own."""
        self.position[games] = self.frame[games] = 0
        self.cue[games] = 2 * self._rng.integers(2, size=len(games)) - 1
