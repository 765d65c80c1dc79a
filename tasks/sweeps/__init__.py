"""Sweeps: all combinations of settings, trained by workers."""

from gatecore.tasks.sweeps.config import SweepConfig

__all__ = ["SweepConfig"]
