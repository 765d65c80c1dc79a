"""The progress bar and the table of results that ``gatecore train`` prints."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import rich.box
import rich.console
import rich.table
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gatecore.tasks.reports.collect import labels
from gatecore.tasks.training.config import Config
from gatecore.tasks.training.run import Run
from gatecore.tasks.training.trackers import Tracker
from gatecore.tasks.training.trainer import train

_METRICS = {"perplexity": ("loss", "perplexity"), "score": ("score", "reward")}
_TIMESCALES = {"smallest": "shortest", "median": "median", "largest": "longest"}


def train_with_progress(
    config: Config, folder: Path, console: rich.console.Console, gates: str = "", *,
    resume: bool = False, trackers: Sequence[Callable[[Path, Config], Tracker]] = (),
) -> Run:  # fmt: skip
    """Train under a progress bar with the loss or score.

    The bar is titled by the task and the ``gates``, by default the mechanism's name. Each of the
    ``trackers``, made for the run's folder and config, gets the metrics and, at the end, the gates.
    """
    made = [tracker(folder, config) for tracker in trackers]

    def add(line: Mapping[str, Any]) -> None:
        for tracker in made:
            tracker.add(line)

    name, value = (
        TextColumn(text, markup=False)
        for text in ("{task.description}", "{task.fields[name]} {task.fields[value]:.4f}")
    )
    columns = name, BarColumn(), MofNCompleteColumn(), value
    hidden = not console.is_terminal  # a bar in a log is blank lines
    bar = Progress(*columns, TimeRemainingColumn(), console=console, transient=True, disable=hidden)
    with contextlib.ExitStack() as stack:
        for tracker in made:
            stack.enter_context(tracker)
        stack.enter_context(bar)
        title = f"{config.task.title}, {gates or config.mechanism.name}"
        task = bar.add_task(title, total=config.steps, name=config.task.shown, value=np.nan)
        run = train(config, folder, resume=resume, on_metrics=add,
                    on_step=lambda k, loss: bar.update(task, completed=k, value=loss))  # fmt: skip
        for tracker in made:
            tracker.add_gates(run)
    return run


def results_table(runs: Sequence[Run]) -> rich.console.Group:
    """Test scores beside the baselines, in a table for each task."""
    parts = (part for title, group in by_task(runs) for part in (_table(title, group), ""))
    legend = "Scores on the test set. Timescales 1/(1 − g) of the units after training, in steps."
    return rich.console.Group(*parts, legend)


def by_task(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    """Consecutive runs of one task, with its title."""
    for title, group in groupby(runs, key=lambda run: run.config.task.title):
        yield title, list(group)


def _table(title: str, runs: Sequence[Run]) -> rich.table.Table:
    table = plain_table(title=title, title_justify="left", title_style="bold")
    table.add_column("gates", overflow="fold")
    columns = _METRICS.get(runs[0].config.task.score, ("loss", "accuracy"))
    for column in (*columns, "parameters", "seconds", *_TIMESCALES.values()):
        table.add_column(column, justify="right", no_wrap=True)
    gates = labels(run.config.mechanism for run in runs)
    for run in runs:
        table.add_row(gates[run.config.mechanism], *_cells(run))
    for name, scores in runs[0].config.task.baselines().items():
        table.add_row(name, *_scores(scores), style="italic")
    return table


def plain_table(**settings: Any) -> rich.table.Table:
    """A table that fits into 80 columns."""
    settings |= dict(box=rich.box.SIMPLE, padding=(0, 1, 0, 0), show_edge=False, pad_edge=False)
    return rich.table.Table(**settings)


def _cells(run: Run) -> tuple[str, ...]:
    summary = run.summary or {}
    if run.status != "finished":
        return (run.status,)
    after = summary["timescales"]["after"]
    timescales = ("∞" if after[key] is None else f"{after[key]:.3g}" for key in _TIMESCALES)
    size, seconds = f"{summary['parameters']:,}", f"{summary['seconds']:.0f}"
    return *_scores(summary["test"]), size, seconds, *timescales


def _scores(scores: Mapping[str, float | None]) -> tuple[str, str]:
    if "score" in scores:
        return f"{scores['score']:.2f}", f"{scores['reward']:.2f}" if "reward" in scores else ""
    accuracy, perplexity = scores.get("accuracy"), scores.get("perplexity")
    loss = "not finite" if scores["loss"] is None else f"{scores['loss']:.4f}"
    if perplexity is not None:
        return loss, f"{perplexity:.2f}"
    return loss, "" if accuracy is None else f"{accuracy:.1%}"
