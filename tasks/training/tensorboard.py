"""Event files of a run for TensorBoard, written by tensorboardX (extra ``tensorboard``)."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gatecore.tasks import missing
from gatecore.tasks.training.atomic_files import writing
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run import Run
from gatecore.tasks.training.trackers import histograms, scalars


class TensorBoard:
    """Writes a run's metrics as scalars, and its gates as histograms, into the run's folder.

    A context manager, which closes the file. Scalars are named "train/loss", "validation/loss"
    and so on; histograms "gates/forget" and "gates/log10_timescale", at step 0 before training.
    Raises ConfigError if tensorboardX is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ModuleNotFoundError as error:
            raise ConfigError(str(missing(error, "tensorboard"))) from error
        self._open, self._folder = SummaryWriter, folder
        self._writer: Any = None

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics. The first one removes what came from its step on."""
        step = line["step"]
        for name, value in scalars(line).items():
            if self._writer is None:
                # unlike any file there: the name's time is in seconds, and it is opened as is
                suffix = f".{os.getpid()}.{step}.{secrets.token_hex(8)}"
                with writing(self._folder):
                    self._writer = self._open(str(self._folder), purge_step=step,
                                              filename_suffix=suffix)  # fmt: skip
            self._writer.add_scalar(name, value, step)

    def add_gates(self, run: Run) -> None:
        """Add histograms of a run's gates, unless it had ended before any line was added."""
        if self._writer is None:
            return
        for name, _, step, values in histograms(run):
            self._writer.add_histogram(name, values, step)

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._writer is not None:
            self._writer.close()
