"""A run under a progress bar."""

import contextlib
from pathlib import Path

import numpy as np
import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gatecore.tasks.training.config import Config
from gatecore.tasks.training.run import Run
from gatecore.tasks.training.tensorboard import TensorBoard
from gatecore.tasks.training.trainer import train


def train_with_progress(
    config: Config, folder: Path, console: rich.console.Console, *,
    resume: bool = False, tensorboard: bool = False,
) -> Run:  # fmt: skip
    """:func:`gatecore.tasks.train` under a progress bar that shows the loss or the score.

    ``tensorboard``: write event files in the folder, too.
    """
    events = TensorBoard(folder) if tensorboard else None
    value = TextColumn("{task.fields[name]} {task.fields[value]:.4f}")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), value
    hidden = not console.is_terminal  # a bar in a log is blank lines
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden)
    with events or contextlib.nullcontext(), bar:
        task = bar.add_task(label(config), total=config.steps, name=config.task.shown, value=np.nan)
        run = train(config, folder, resume=resume, on_metrics=events.add if events else None,
                    on_step=lambda k, loss: bar.update(task, completed=k, value=loss))  # fmt: skip
        if events:
            events.add_gates(run)
    return run


def label(config: Config) -> str:
    """The task and the mechanism of a run."""
    return f"{config.task.title}, {config.mechanism.name}"
