"""Memory chains: reproduce a bit of the first step many steps later."""

from typing import ClassVar

import numpy as np

from gatecore import _checks
from gatecore.tasks.environments.base import Advance, ArrayEnvironment

LENGTHS = (*range(1, 11), 12, 14, 17, 20, 25, *range(30, 101, 10))  # of bsuite's memory_len


class MemoryChain(ArrayEnvironment):
    """Bits at the first step; ``length`` steps later the action must be the one that is queried.

    Like bsuite's ``memory_len`` and ``memory_size`` (Osband et al., *Behaviour suite for
    reinforcement learning*, 2020), which show the bits at two steps, so memory has to span one step
    less. An episode has ``length`` + 1 steps. Only the last action (0 or 1) matters: the reward is
    1 if it is the queried bit, else −1. The score is the reward; without memory its mean is 0.

    An observation has 2 + ``bits`` numbers: the remaining time, from 1 to 0 in equal steps; at the
    last step the index of the queried bit, else 0; at the first the bits, as 1 or −1, else 0.

    There are ``size`` episodes in parallel. Bsuite's lengths are in ``LENGTHS``; ``memory_len`` has
    one bit, ``memory_size`` 1 to 40. ``frame``, int64 (size,), are the numbers of steps taken,
    ``context``, int8 (size, bits), the bits, 0 or 1, and ``query``, int64 (size,), the index of the
    queried one. TypeError or ValueError if an argument is no integer of at least 1.

    >>> environment = MemoryChain(3, length=1)
    >>> _ = environment.step(np.zeros(3, int))
    >>> environment.step(environment.context[:, 0]).reward
    array([1., 1., 1.], dtype=float32)
    """

    actions = 2
    dtype = np.float32
    state_names: ClassVar = ("frame", "context", "query")

    def __init__(self, size: int, length: int = 20, bits: int = 1) -> None:
        self.size = _checks.integer("size", size)
        self.length = _checks.integer("length", length)
        self.bits = _checks.integer("bits", bits)
        self.shape = (2 + self.bits,)
        self.horizon = self.length + 1
        self.frame, self.query = np.zeros((2, self.size), np.int64)
        self.context = np.zeros((self.size, self.bits), np.int8)
        self.reset(0)

    def advance(self, actions: np.ndarray) -> Advance:
        actions = self._check_actions(actions)
        self.frame += 1
        ended = self.frame == self.horizon
        answer = np.take_along_axis(self.context, self.query[:, None], axis=1)[:, 0]
        reward = np.where(ended, np.where(actions == answer, 1, -1), 0).astype(np.float32)
        return reward, ended, reward.copy()

    def observe(self) -> np.ndarray:
        """Time, query and bits, float32 (size, 2 + bits)."""
        observation = np.zeros((self.size, *self.shape), np.float32)
        observation[:, 0] = 1 - self.frame / self.length
        observation[:, 1] = np.where(self.frame == self.length, self.query, 0)
        observation[:, 2:] = np.where(self.frame[:, None] == 0, 2 * self.context - 1, 0)
        return observation

    def renew(self, episodes: np.ndarray) -> None:
        self.frame[episodes] = 0
        self.context[episodes] = self._rng.integers(2, size=(len(episodes), self.bits))
        self.query[episodes] = self._rng.integers(self.bits, size=len(episodes))
