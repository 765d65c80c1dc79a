"""The table of results that ``gatecore train`` prints."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import rich.box
import rich.console
import rich.table

from gatecore.tasks.training.run import Run

_METRICS = {"perplexity": ("loss", "perplexity"), "score": ("score", "reward")}
_TIMESCALES = {"smallest": "shortest", "median": "median", "largest": "longest"}


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
    table.add_column("gates")
    columns = _METRICS.get(runs[0].config.task.score, ("loss", "accuracy"))
    for column in (*columns, "parameters", "seconds", *_TIMESCALES.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(run.config.mechanism.name, *_cells(run))
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
