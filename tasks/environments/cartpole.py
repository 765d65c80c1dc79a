"""Position-only CartPole: gymnasium's, with the velocities hidden."""

from typing import Any, ClassVar

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

from gatecore import _checks
from gatecore.contracts.environment import Turn
from gatecore.tasks.environments.base import SavedWorld

_SEEN = (0, 2)  # position and angle, of position, velocity, angle, angular velocity


class CartPole(SavedWorld):
    """Push a cart left or right (0 or 1) so that the pole on it stays up, without seeing speeds.

    gymnasium's batched CartPole does the physics; this class hides the velocities, begins a new
    game in the step in which one ends, and can be saved. A game ends when the cart is more than 2.4
    from the middle, the pole leans more than 12°, or after ``horizon`` steps. Each step brings 1,
    and the score is the reward. What is seen is the cart's position and the pole's angle, each
    divided by the limit at which a game ends.

    Parameters
    ----------
    size : int
        Games side by side.
    horizon : int

    Attributes
    ----------
    state : float64 array (4, size)
        Position, velocity, angle (radians) and angular velocity.
    steps : int32 array (size,)
        Steps taken.
    """

    actions = 2
    shape = (2,)
    dtype = np.float32
    kept: ClassVar = ("state", "steps")

    def __init__(self, size: int, horizon: int = 500) -> None:
        self.size = _checks.integer("size", size)
        self.horizon = _checks.integer("horizon", horizon)
        self._physics: Any = CartPoleVectorEnv(self.size, max_episode_steps=self.horizon)
        self._physics.reset(seed=0)
        self._limits = np.array([self._physics.x_threshold, self._physics.theta_threshold_radians])
        self.reset(0)

    @property
    def state(self) -> np.ndarray:
        return self._physics.state

    @state.setter
    def state(self, state: np.ndarray) -> None:
        self._physics.state = state

    @property
    def steps(self) -> np.ndarray:
        return self._physics.steps

    @steps.setter
    def steps(self, steps: np.ndarray) -> None:
        self._physics.steps = steps

    def step(self, actions: np.ndarray) -> Turn:
        _, reward, fallen, late, _ = self._physics.step(self._checked(actions))
        ended = fallen | late
        self.renew(np.flatnonzero(ended))
        return Turn(self.observe(), reward, ended, reward.copy())

    def observe(self) -> np.ndarray:
        """Positions and angles, float32 (games, 2), within -1..1 or a little beyond."""
        return (self.state[_SEEN, :].T / self._limits).astype(np.float32)

    def renew(self, games: np.ndarray) -> None:
        """Replace games by new ones, which begin as gymnasium's: uniform near the middle."""
        low, high = self._physics.low, self._physics.high
        self.state[:, games] = self._rng.uniform(low, high, (4, len(games)))
        self.steps[games] = 0
        self._physics.prev_done[games] = False  # else its next step would begin them once more
