"""What all worlds share: actions are checked, and the games can be kept and taken up again."""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from gatecore import _checks
from gatecore._namespace import Array
from gatecore.contracts.environment import World, generator_state, set_generator_state

_GENERATOR = "generator"


class SavedWorld(World):
    """A world whose games are a generator and a few arrays, its attributes named in ``kept``.

    A new world stands as after ``reset(0)``.
    """

    kept: ClassVar[tuple[str, ...]]
    _rng: np.random.Generator

    def reset(self, rng: np.random.Generator | int) -> Array:
        """Begin new games, drawn from ``rng`` (a PCG64) or a seed. Returns what is seen first."""
        rng = _checks.generator(rng)
        if not isinstance(rng.bit_generator, np.random.PCG64):
            kind = type(rng.bit_generator).__name__
            raise TypeError(f"rng must draw from a PCG64 bit generator, as default_rng: got {kind}")
        self._rng = rng
        self.renew(np.arange(self.size))
        return self.observe()

    @abc.abstractmethod
    def renew(self, games: np.ndarray) -> None:
        """Replace games, given by their indices, by new ones."""

    @abc.abstractmethod
    def observe(self) -> Array:
        """What is seen now."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of the arrays in ``kept``, and the generator's state."""
        state = {name: getattr(self, name).copy() for name in self.kept}
        return state | {_GENERATOR: generator_state(self._rng)}

    def load_state_dict(self, state: Mapping[str, Any]) -> Array:
        """Go on from what :meth:`state_dict` returned. Returns what is seen now.

        The generator that was given to :meth:`reset` is left alone: the games go on with one of
        their own.

        Raises
        ------
        ValueError
            An entry missing, unknown, or of another shape or type.
        """
        present = self.state_dict()
        if unlike := sorted(set(present) ^ set(state)):
            raise ValueError(f"state must hold {sorted(present)}: missing or unknown are {unlike}")
        arrays = {name: np.asarray(part) for name, part in state.items()}
        for name, now in present.items():
            told, wanted = ((part.dtype, part.shape) for part in (arrays[name], now))
            if told != wanted:
                raise ValueError(
                    f"state[{name!r}] must be {wanted[0]} {wanted[1]}, got {told[0]} {told[1]}"
                )
        self._rng = np.random.default_rng(0)
        set_generator_state(self._rng, arrays.pop(_GENERATOR))
        for name, part in arrays.items():
            setattr(self, name, part.copy())
        return self.observe()

    def _checked(self, actions: Any) -> np.ndarray:
        """Actions (size,) as integers of 0..actions-1."""
        chosen = np.asarray(actions)
        if chosen.dtype.kind not in "iu":
            raise TypeError(f"actions must be integers, got dtype {chosen.dtype}")
        if chosen.shape != (self.size,):
            raise ValueError(f"actions must have shape ({self.size},), got {chosen.shape}")
        if chosen.min() < 0 or chosen.max() >= self.actions:
            raise ValueError(f"actions must be 0..{self.actions - 1}, got {np.unique(chosen)}")
        return chosen


def drawn(rng: np.random.Generator, size: int, options: int, count: int) -> np.ndarray:
    """``size`` independent draws of ``count`` different integers below ``options``, in any order.

    Returns integers (size, count).
    """
    return rng.random((size, options)).argsort(axis=1)[:, :count]
