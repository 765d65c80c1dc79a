"""Memory chains: repeat after many steps a bit that was seen at the first."""

from typing import ClassVar

import numpy as np

from gatecore import _checks
from gatecore.contracts.environment import Turn
from gatecore.tasks.environments.base import SavedWorld

LENGTHS = (*range(1, 11), 12, 14, 17, 20, 25, *range(30, 101, 10))  # of bsuite's memory_len


class MemoryChain(SavedWorld):
    """See bits at the first step, and ``length`` steps later answer which one bit was.

    Like bsuite's ``memory_len`` and ``memory_size`` (Osband et al., *Behaviour suite for
    reinforcement learning*, 2020). A game takes ``length`` + 1 steps; only the action at the last
    matters: 1 if it (0 or 1) is the bit asked for, else −1. The score is the reward; without memory
    it is 0. What is seen has 2 + ``bits`` numbers: the time that is left, from 1 to 0 in equal
    steps; the index of the bit that is asked for, at the last step, else 0; the bits at the first
    step, as 1 or −1, else 0. In bsuite the first sight is shown twice, so that the bits are to be
    kept for one step less.

    Parameters
    ----------
    size : int
        Games side by side.
    length : int
        Steps from the sight of the bits to the answer. bsuite's are in ``LENGTHS``.
    bits : int
        One in ``memory_len``, 1 to 40 in ``memory_size``.

    Attributes
    ----------
    frame : int64 array (size,)
        Steps taken.
    context : int8 array (size, bits)
        The bits, 0 or 1.
    query : int64 array (size,)
        The index of the one that is asked for.
    """

    actions = 2
    dtype = np.float32
    frame: np.ndarray
    context: np.ndarray
    query: np.ndarray
    kept: ClassVar = ("frame", "context", "query")

    def __init__(self, size: int, length: int = 20, bits: int = 1) -> None:
        self.size = _checks.integer("size", size)
        self.length = _checks.integer("length", length)
        self.bits = _checks.integer("bits", bits)
        self.shape = (2 + self.bits,)
        self.horizon = self.length + 1
        self.frame = np.zeros(self.size, np.int64)
        self.context = np.zeros((self.size, self.bits), np.int8)
        self.query = np.zeros(self.size, np.int64)
        self.reset(0)

    def step(self, actions: np.ndarray) -> Turn:
        actions = self._checked(actions)
        self.frame += 1
        ended = self.frame == self.horizon
        right = actions == np.take_along_axis(self.context, self.query[:, None], axis=1)[:, 0]
        reward = np.where(ended, np.where(right, 1, -1), 0).astype(np.float32)
        self.renew(np.flatnonzero(ended))
        return Turn(self.observe(), reward, ended, reward.copy())

    def observe(self) -> np.ndarray:
        """Time, query and bits as far as they are shown: float32 (games, 2 + bits)."""
        seen = np.zeros((self.size, *self.shape), np.float32)
        seen[:, 0] = 1 - self.frame / self.length
        seen[:, 1] = np.where(self.frame == self.length, self.query, 0)
        seen[:, 2:] = np.where(self.frame[:, None] == 0, 2 * self.context - 1, 0)
        return seen

    def renew(self, games: np.ndarray) -> None:
        """Replace games by new ones, with bits of their own."""
        self.frame[games] = 0
        self.context[games] = self._rng.integers(2, size=(len(games), self.bits))
        self.query[games] = self._rng.integers(self.bits, size=len(games))
