"""Backends: the same layers and the same ``Learner`` on each framework."""

import importlib
from types import ModuleType

from gatecore import _checks

_NAMES = ("numpy", "cupy", "torch", "jax")


def load(name: str) -> ModuleType:
    """The backend of that name, "numpy", "cupy", "torch" or "jax", imported now.

    ValueError for an unknown name, which offers the nearest ones; ImportError where the backend's
    framework, or the GPU it needs, is missing.
    """
    return importlib.import_module(f"gatecore.backends.{_checks.choice('backend', name, _NAMES)}")


__all__ = ["load"]
