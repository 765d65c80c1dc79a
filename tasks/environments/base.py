"""The base of all environments: actions are checked, and the state can be saved and restored."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gatecore import _checks
from gatecore._namespace import Array
from gatecore.contracts import environment
from gatecore.contracts.environment import StepResult

_GENERATOR = "generator"
Advance = tuple[np.ndarray, np.ndarray, np.ndarray]  # reward, ended, score


class ArrayEnvironment(environment.Environment):
    """An environment whose state is a random generator and a few arrays.

    A subclass sets the attributes of :class:`gatecore.contracts.environment.Environment`, names its
    arrays in ``state_names``, and defines :meth:`advance`, :meth:`renew` and :meth:`observe`. A new
    environment is in the state after ``reset(0)``.
    """

    state_names: ClassVar[tuple[str, ...]]
    _rng: np.random.Generator

    def reset(self, rng: np.random.Generator | int) -> Array:
        """Start new episodes, now and later drawn from ``rng``; return the first observations.

        ``rng`` is a seed or a PCG64 generator, as ``default_rng`` makes; TypeError otherwise.
        """
        rng = _checks.generator(rng)
        if not isinstance(bits := rng.bit_generator, np.random.PCG64):
            kind = type(bits).__name__
            raise TypeError(f"rng must have a PCG64 bit generator, as default_rng: got {kind}; use "
                            "numpy.random.default_rng(seed)")  # fmt: skip
        self._rng = rng
        self.renew(np.arange(self.size))
        return self.observe()

    def step(self, actions: Array) -> StepResult:
        """Take actions (size,), integers in 0..actions-1; replace episodes that end by new ones.

        Raises TypeError or ValueError for actions of another dtype or shape, or out of range.
        """
        reward, ended, score = self.advance(actions)
        self.renew(np.flatnonzero(ended))
        return StepResult(self.observe(), reward, ended, score)

    @abc.abstractmethod
    def advance(self, actions: Array) -> Advance:
        """Take actions (size,) without replacing ended episodes: reward, ended, score."""

    @abc.abstractmethod
    def renew(self, episodes: np.ndarray) -> None:
        """Replace the episodes with these indices by new ones."""

    @abc.abstractmethod
    def observe(self) -> Array:
        """The current observations, an array (size, ...) with the axes of ``shape``."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the arrays in ``state_names``, and the generator's state."""
        state = {name: getattr(self, name).copy() for name in self.state_names}
        return state | {_GENERATOR: environment.generator_state(self._rng)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Continue from what :meth:`state_dict` returned; return the current observations.

        The generator passed to :meth:`reset` is not changed: a new one continues. Raises ValueError
        for a missing or unknown entry, or one of another shape or dtype.
        """
        expected = self.state_dict()
        if different := sorted(set(expected) ^ set(state)):
            raise ValueError(f"state must have the entries {sorted(expected)}; missing or unknown: "
                             f"{different}")  # fmt: skip
        arrays = {name: np.asarray(part) for name, part in state.items()}
        for name, like in expected.items():
            if ((part := arrays[name]).dtype, part.shape) != (like.dtype, like.shape):
                raise ValueError(f"state[{name!r}] must be {like.dtype} {like.shape}, got "
                                 f"{part.dtype} {part.shape}; load it into an environment with "
                                 "the same settings")  # fmt: skip
        self._rng = np.random.default_rng(0)
        environment.set_generator_state(self._rng, arrays.pop(_GENERATOR))
        for name, part in arrays.items():
            setattr(self, name, part.copy())
        return self.observe()

    def _check_actions(self, actions: Any) -> np.ndarray:
        """Actions (size,) as integers in 0..actions-1."""
        array = np.asarray(_checks.unmasked("actions", actions))
        if array.dtype.kind not in "iu":
            raise TypeError(f"actions must be integers, got dtype {array.dtype}")
        if array.shape != (self.size,):
            raise ValueError(f"actions must have shape ({self.size},), got {array.shape}")
        if array.min() < 0 or array.max() >= self.actions:
            raise ValueError(f"actions must be 0..{self.actions - 1}, got {np.unique(array)}")
        return array


SavedWorld = ArrayEnvironment  # the former name


def distinct_draws(rng: np.random.Generator, size: int, options: int, count: int) -> np.ndarray:
    """``size`` draws of ``count`` distinct integers below ``options``, int64 (size, count)."""
    return rng.random((size, options)).argsort(axis=1)[:, :count]
