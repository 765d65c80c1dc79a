"""The progress of a sweep on a console: a live table and a bar; without a terminal, lines."""

import datetime
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import rich.box
import rich.console
import rich.live
import rich.progress
import rich.table

from gatecore.tasks.sweeps.scheduler import Progress, Swept
from gatecore.tasks.training.run import Run

_STYLES = {"running": "bold", "failed": "red", "diverged": "yellow", "waiting": "dim",
           "finished": "green"}  # in the order of the table  # fmt: skip


class Display:
    """Shows a sweep on a console: a context manager, and a ``Watcher``."""

    def __init__(self, console: rich.console.Console) -> None:
        self.console = console
        self._bar = rich.progress.Progress(
            rich.progress.TextColumn("{task.fields[trials]}"), rich.progress.BarColumn(),
            rich.progress.TaskProgressColumn(), rich.progress.TimeElapsedColumn(),
            rich.progress.TextColumn("left"), rich.progress.TimeRemainingColumn(compact=True),
            speed_estimate_period=1800,  # seconds: trials differ in length and in their workers
            console=console)  # fmt: skip
        self._task: rich.progress.TaskID | None = None
        self._live = rich.live.Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._live.stop()

    def update(self, progress: Sequence[Progress]) -> None:
        """Redraw the table, on a terminal."""
        self._advance(progress)
        if self.console.is_terminal:
            self._live.update(rich.console.Group(self._table(progress), self._bar), refresh=True)

    def event(self, one: Progress, what: str) -> None:
        """Print a line above the table."""
        line = f"{one.trial.name}: {what}"
        if what in ("died", "failed"):
            line += f" ({one.reason})"
        elif one.metric is not None:
            line += f", test {one.trial.config.task.shown} {one.metric:.4f}"
        if what == "died":
            line += f"; death {one.deaths}, it continues from its last checkpoint"
        seconds = None if self._task is None else self._bar.tasks[0].time_remaining
        if seconds is not None and what != "died" and not self.console.is_terminal:
            left = datetime.timedelta(seconds=int(seconds))
            line += f" [{self._bar.tasks[0].fields['trials']}, about {left} left]"
        self.console.print(line, soft_wrap=True, highlight=False, markup=False)

    def _advance(self, progress: Sequence[Progress]) -> None:
        """The bar counts steps; those done before the sweep do not enter its speed."""
        total = sum(one.trial.config.steps for one in progress)
        done = sum(one.trial.config.steps if one.ended else one.step for one in progress)
        ended = sum(one.ended for one in progress)
        trials = f"{ended}/{len(progress)} trials"
        if self._task is None:
            self._task = self._bar.add_task("", total=total, completed=done, trials=trials)
        self._bar.update(self._task, completed=done, trials=trials)

    def _table(self, progress: Sequence[Progress]) -> rich.table.Table:
        """As many trials as the window has lines for, in the order of their status."""
        rows = max(3, self.console.height - 6)
        order = list(_STYLES)
        ordered = sorted(progress, key=lambda one: order.index(one.status))
        table = rich.table.Table(box=rich.box.SIMPLE, show_edge=False, pad_edge=False)
        table.add_column("trial", overflow="fold")
        for column in ("", "step", ordered[0].trial.config.task.shown):
            table.add_column(column, justify="right", no_wrap=True)
        for one in ordered[:rows]:
            table.add_row(one.trial.name, one.status, f"{one.step}/{one.trial.config.steps}",
                          "" if one.metric is None else f"{one.metric:.4f}",
                          style=_STYLES[one.status])  # fmt: skip
        if hidden := ordered[rows:]:
            counts = {s: sum(one.status == s for one in hidden) for s in order}
            more = ", ".join(f"{count} {s}" for s, count in counts.items() if count)
            table.add_row(f"… and {more}", style="dim")
        return table


def results_table(swept: Swept) -> rich.table.Table:
    """A table with a row for each combination of settings, and the median score of its seeds."""
    groups: dict[str, list[Run]] = {}
    for name, run in swept.runs.items():
        groups.setdefault(name.rpartition("-seed")[0], []).append(run)
    failed = [name.rpartition("-seed")[0] for name in swept.failed]
    score = next((run.config.task.score for run in swept.runs.values()), "loss")
    table = rich.table.Table(box=rich.box.SIMPLE, show_edge=False, pad_edge=False)
    table.add_column("trials", overflow="fold")
    for column in ("seeds", "diverged", "failed", f"test {score}, median"):
        table.add_column(column, justify="right")
    for name in dict.fromkeys([*groups, *failed]):
        runs = groups.get(name, [])
        finished = [run.summary for run in runs if run.summary and run.status == "finished"]
        values = [v for summary in finished if (v := summary["test"][score]) is not None]
        unit = ".1%" if score == "accuracy" else ".4f"
        diverged = sum(run.status == "diverged" for run in runs)
        table.add_row(name, str(len(runs) + failed.count(name)), str(diverged or ""),
                      str(failed.count(name) or ""),
                      f"{np.median(values):{unit}}" if values else "–")  # fmt: skip
    return table
