"""A run's metrics for TensorBoard: event files in its folder (extra ``tensorboard``).

They are written by tensorboardX, which needs no framework; the run does not depend on them.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gatecore import timescale
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run_folder import Run, RunError


class TensorBoard:
    """Write metrics as they come, and at the end histograms of the gates.

    A context manager, which closes the files. Scalars are named "train/loss", "validation/loss"
    and so on; histograms "gates/forget" and "gates/log10_timescale", before training at step 0.

    Parameters
    ----------
    folder : path
        The run's folder; the event file is made there with the first line of metrics.

    Raises
    ------
    ConfigError
        tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--tensorboard needs {error.name}, which is not installed: "
                "pip install 'gatecore[tensorboard]'"
            ) from error
        self._open, self._folder, self._writer = SummaryWriter, folder, None

    def add(self, line: Mapping[str, Any]) -> None:
        """A line of metrics; what an earlier part of the run wrote from its step on is undone."""
        step, split = line["step"], line["split"]
        for name, value in line.items():
            if name not in ("step", "split") and value is not None:
                self._at(step).add_scalar(f"{split}/{name}", value, step)

    def add_gates(self, run: Run) -> None:
        """Histograms of the units of a run that has just ended, if metrics came before."""
        if self._writer is None:
            return
        for when, step in (("before", 0), ("after", len(run.metrics) and run.metrics[-1]["step"])):
            if (gate := run.gates(when)) is None or not np.isfinite(gate.value).all():
                continue
            decades = np.log10(timescale(gate).astype(float))
            finite = decades[np.isfinite(decades)]
            self._writer.add_histogram("gates/forget", np.ravel(gate.value), step)
            if finite.size:
                self._writer.add_histogram("gates/log10_timescale", finite, step)

    def _at(self, step: int) -> Any:
        """The writer, which begins with the first step that it hears of."""
        if self._writer is None:
            own = f".{os.getpid()}.{step}"  # beside a name of seconds, which may come again
            try:
                self._writer = self._open(str(self._folder), purge_step=step, filename_suffix=own)
            except OSError as error:
                raise RunError(f"cannot write {self._folder}: {error.strerror}") from error
        return self._writer

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._writer is not None:
            self._writer.close()
