"""Match as an environment of gymnasium, one game or a batch of them.

Importing this module makes ``gatecore/PassiveMatch-v0`` and ``gatecore/ActiveMatch-v0`` known to
``gymnasium.make`` and ``gymnasium.make_vec``, which also import it by themselves when asked for
``gatecore.tasks.environments.gym:gatecore/ActiveMatch-v0``.
"""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space

from gatecore import _checks
from gatecore.tasks.environments import register
from gatecore.tasks.environments.match import Match

RENDERED = ["rgb_array", "ansi"]
_METADATA: dict[str, Any] = {"render_modes": RENDERED, "render_fps": 8}
_BATCHED = {**_METADATA, "autoreset_mode": AutoresetMode.SAME_STEP}


class MatchEnv(gymnasium.Env):
    """One episode of :class:`gatecore.tasks.environments.match.Match`, with its settings.

    A game's last frame is its termination; nothing is truncated. ``info["score"]`` is what the
    step added to the score.

    Parameters
    ----------
    render_mode : {"rgb_array", "ansi"}, optional
        Pictures uint8 (7 · scale, 11 · scale, 3), or lines of text as :meth:`Match.text` gives.
    scale : int
        Pixels of a cell.
    settings
        Of Match, but for its size.
    """

    metadata = _METADATA

    def __init__(self, render_mode: str | None = None, scale: int = 16, **settings: Any) -> None:
        self.render_mode = _rendered(render_mode)
        self.scale = _checks.integer("scale", scale)
        self.world = Match(1, **settings)
        self.observation_space, self.action_space = _spaces(self.world)
        self._over = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._over = False
        return self.world.reset(self.np_random)[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if self._over:
            raise RuntimeError("the game is over: call reset() before step()")
        reward, ended, score = self.world.advance(np.array([action]))
        self._over = bool(ended[0])
        seen = self.world.observe()[0]
        return seen, float(reward[0]), self._over, False, {"score": float(score[0])}

    def render(self) -> Any:
        return _render(self.world, 0, self.render_mode, self.scale)


class MatchVectorEnv(gymnasium.vector.VectorEnv):
    """A batch of games of :class:`gatecore.tasks.environments.match.Match`, stepped at once.

    A game that has ended is followed by a new one in the same step: ``AutoresetMode.SAME_STEP``,
    with ``info["final_obs"]`` and ``info["final_info"]``, as gymnasium's own. All games draw from
    the one generator that a seed gives.

    Parameters
    ----------
    num_envs : int
        Games side by side.
    render_mode, scale, settings
        As for :class:`MatchEnv`.
    """

    metadata = _BATCHED

    def __init__(
        self, num_envs: int = 1, render_mode: str | None = None, scale: int = 16, **settings: Any
    ) -> None:
        self.render_mode = _rendered(render_mode)
        self.scale = _checks.integer("scale", scale)
        self.num_envs = _checks.integer("num_envs", num_envs)
        self.world = Match(num_envs, **settings)
        self.single_observation_space, self.single_action_space = _spaces(self.world)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return self.world.reset(self.np_random), {}

    def step(
        self, actions: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        reward, ended, score = self.world.advance(actions)
        info: dict[str, Any] = {"score": np.where(ended, 0, score), "_score": ~ended}
        if ended.any():
            info |= self._final(ended, score)
            self.world.renew(np.flatnonzero(ended))
        seen = self.world.observe()
        return seen, reward, ended, np.zeros_like(ended), info

    def render(self) -> tuple[Any, ...] | None:
        if self.render_mode is None:
            return None
        return tuple(
            _render(self.world, game, self.render_mode, self.scale) for game in range(self.num_envs)
        )

    def _final(self, ended: np.ndarray, score: np.ndarray) -> dict[str, Any]:
        """What games that have ended show last."""
        seen = np.full(self.num_envs, None, object)
        for game, last in zip(np.flatnonzero(ended), self.world.observe()[ended], strict=True):
            seen[game] = last
        told = {"score": np.where(ended, score, 0), "_score": ended.copy()}
        return {
            "final_obs": seen, "_final_obs": ended.copy(),
            "final_info": told, "_final_info": ended.copy(),
        }  # fmt: skip


def _spaces(world: Match) -> tuple[spaces.Box, spaces.Discrete]:
    return spaces.Box(0, 255, world.shape, np.uint8), spaces.Discrete(world.actions)


def _rendered(mode: str | None) -> str | None:
    return mode if mode is None else _checks.choice("render_mode", mode, RENDERED)


def _render(world: Match, game: int, mode: str | None, scale: int) -> Any:
    if mode == "ansi":
        return world.text(game)
    return None if mode is None else world.render(game, scale)


register()
