"""Match as an environment of gymnasium, single or vectorised.

Importing this module registers ``gatecore/PassiveMatch-v0`` and ``gatecore/ActiveMatch-v0``.
``gymnasium.make`` and ``gymnasium.make_vec`` import it themselves for names such as
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

RENDER_MODES = ["rgb_array", "ansi"]
_METADATA: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 8}
_VECTOR_METADATA = {**_METADATA,
                    "render_modes": [*RENDER_MODES, *(f"{mode}_list" for mode in RENDER_MODES)],
                    "autoreset_mode": AutoresetMode.SAME_STEP}  # fmt: skip
Info = dict[str, Any]
Reset = tuple[np.ndarray, Info]  # observations and info


class _Rendered:
    """Construction and rendering of both environments."""

    metadata: dict[str, Any]

    def _make(self, size: int, render_mode: str | None, scale: int,
              settings: Any) -> tuple[spaces.Box, spaces.Discrete]:  # fmt: skip
        """Make the environment; return the spaces of an episode's observations and actions."""
        if render_mode is not None:
            _checks.choice("render_mode", render_mode, self.metadata["render_modes"])
        self.render_mode, self.scale = render_mode, _checks.integer("scale", scale)
        self.match = Match(size, **settings)
        return spaces.Box(0, 255, Match.shape, np.uint8), spaces.Discrete(Match.actions)

    def _render(self, episode: int) -> Any:
        if self.render_mode is None:
            return None
        ansi = self.render_mode.startswith("ansi")
        return self.match.text(episode) if ansi else self.match.render(episode, self.scale)


class MatchEnv(_Rendered, gymnasium.Env):
    """One episode of :class:`gatecore.tasks.environments.match.Match`.

    The last frame terminates an episode; nothing is truncated; ``step`` after it raises
    RuntimeError. ``info["score"]`` is the step's contribution to the score.

    With ``render_mode`` "rgb_array" images are uint8 (7 · scale, 11 · scale, 3), with "ansi" lines
    of text as :meth:`Match.text` returns. ``settings`` are Match's parameters other than size.

    >>> env = MatchEnv(level="active", apple_reward=1.0)
    >>> observation, info = env.reset(seed=1)
    >>> observation.shape, env.action_space
    ((5, 5, 3), Discrete(4))
    """

    metadata = _METADATA

    def __init__(self, render_mode: str | None = None, scale: int = 16, **settings: Any) -> None:
        self.observation_space, self.action_space = self._make(1, render_mode, scale, settings)
        self._over = True

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> Reset:
        super().reset(seed=seed)
        self._over = False
        return self.match.reset(self.np_random)[0], {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, Info]:
        if self._over:
            raise RuntimeError("the episode is over: call reset() before step()")
        (reward,), (ended,), (score,) = self.match.advance(np.array([action]))
        self._over, info = bool(ended), {"score": float(score)}
        return self.match.observe()[0], float(reward), self._over, False, info

    def render(self) -> Any:
        return self._render(0)


class MatchVectorEnv(_Rendered, gymnasium.vector.VectorEnv):
    """Episodes of :class:`gatecore.tasks.environments.match.Match`, stepped together.

    An episode that ends is followed by a new one in the same step: ``AutoresetMode.SAME_STEP``,
    with ``info["final_obs"]`` and ``info["final_info"]``. All episodes share one random generator.

    There are ``num_envs`` episodes in parallel; other parameters are those of :class:`MatchEnv`.
    With ``render_mode`` "rgb_array_list" or "ansi_list" ``render`` returns for each episode the
    list of its frames since its start or the call before.

    >>> envs = MatchVectorEnv(64, level="passive")
    >>> envs.reset(seed=1)[0].shape
    (64, 5, 5, 3)
    """

    metadata = _VECTOR_METADATA

    def __init__(self, num_envs: int = 1, render_mode: str | None = None, scale: int = 16,
                 **settings: Any) -> None:  # fmt: skip
        self.num_envs = _checks.integer("num_envs", num_envs)
        observation, action = self._make(num_envs, render_mode, scale, settings)
        self.single_observation_space, self.single_action_space = observation, action
        self.observation_space = batch_space(observation, num_envs)
        self.action_space = batch_space(action, num_envs)
        self._frames: list[list[Any]] = [[] for _ in range(num_envs)]

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> Reset:
        super().reset(seed=seed)
        observations = self.match.reset(self.np_random)
        self._collect(range(self.num_envs))
        return observations, {}

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Info]:
        reward, ended, score = self.match.advance(actions)
        info: Info = {"score": np.where(ended, 0, score), "_score": ~ended}
        if ended.any():
            last, episodes = self.match.observe(), np.flatnonzero(ended)
            for k in episodes:
                final = {"final_obs": last[k], "final_info": {"score": score[k]}}
                info = self._add_info(info, final, int(k))
            self.match.renew(episodes)
        self._collect(np.flatnonzero(ended))
        return self.match.observe(), reward, ended, np.zeros_like(ended), info

    def render(self) -> tuple[Any, ...] | None:
        if self.render_mode is None:
            return None
        if self.render_mode.endswith("_list"):
            frames, self._frames = self._frames, [[] for _ in self._frames]
            return tuple(frames)
        return tuple(self._render(k) for k in range(self.num_envs))

    def _collect(self, started: Any) -> None:
        """Add the current frame to each episode's list, which is emptied where one started."""
        if self.render_mode is None or not self.render_mode.endswith("_list"):
            return
        for k in started:
            self._frames[k] = []
        for k, frames in enumerate(self._frames):
            frames.append(self._render(k))


register()
