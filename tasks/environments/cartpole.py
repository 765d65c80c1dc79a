"""Position-only CartPole: gymnasium's, with the velocities hidden."""

from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from gatecore import _checks
from gatecore.tasks.environments.base import Advance, ArrayEnvironment

_OBSERVED = (0, 2)  # position and angle, of position, velocity, angle, angular velocity


def _delegated(name: str) -> Any:
    """An attribute of gymnasium's environment."""
    return property(lambda self: getattr(self._physics, name),
                    lambda self, value: setattr(self._physics, name, value))  # fmt: skip


class CartPole(ArrayEnvironment):
    """Balance a pole by pushing its cart left or right (0 or 1), without observing velocities.

    The physics is that of gymnasium's batched CartPole. An episode ends when the cart is more than
    2.4 from the middle, when the pole leans more than 12°, or after ``horizon`` steps. Each step
    has the reward 1, and the score is the reward. An observation is the cart's position and the
    pole's angle, each divided by the limit at which an episode ends.

    There are ``size`` episodes in parallel. ``state``, float64 (4, size), are positions,
    velocities, angles (radians) and angular velocities, and ``steps``, int32 (size,), the numbers
    of steps taken. TypeError or ValueError if a size or horizon is no integer of at least 1.

    >>> environment = CartPole(2)
    >>> environment.step(np.array([0, 1])).reward
    array([1., 1.], dtype=float32)
    """

    actions = 2
    shape = (2,)
    dtype = np.float32
    state_names: ClassVar = ("state", "steps")
    state, steps = _delegated("state"), _delegated("steps")

    def __init__(self, size: int, horizon: int = 500) -> None:
        self.size = _checks.integer("size", size)
        self.horizon = _checks.integer("horizon", horizon)
        self._physics: Any = CartPoleVectorEnv(self.size, max_episode_steps=self.horizon)
        self._physics.reset(seed=0)
        self._limits = np.array([self._physics.x_threshold, self._physics.theta_threshold_radians])
        self.reset(0)

    def advance(self, actions: np.ndarray) -> Advance:
        _, reward, fallen, late, _ = self._physics.step(self._check_actions(actions))
        return reward, fallen | late, reward.copy()

    def observe(self) -> np.ndarray:
        """Positions and angles, float32 (size, 2), at most slightly outside −1..1."""
        return (self.state[_OBSERVED, :].T / self._limits).astype(np.float32)

    def renew(self, episodes: np.ndarray) -> None:
        """Replace episodes by new ones, uniform near the middle as in gymnasium."""
        low, high = self._physics.low, self._physics.high
        self.state[:, episodes] = self._rng.uniform(low, high, (4, len(episodes)))
        self.steps[episodes] = 0
        self._physics.prev_done[episodes] = False  # otherwise its next step would reset them too
