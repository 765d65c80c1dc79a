"""Sweeps: every combination of settings, trained by workers."""

from gatecore.tasks.sweeps.config import SweepConfig

__all__ = ["SweepConfig"]
