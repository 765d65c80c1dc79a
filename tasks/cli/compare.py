"""Train several configurations one after the other, and set their results side by side.

``python -m gatecore.tasks.cli.compare --out runs`` is the project's main job (``make run``): digits
read pixel by pixel, and the Copy task, with standard, U and UR gates.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import rich.box
import rich.console
import rich.progress
import rich.table

from gatecore.tasks.cli.errors import refusals
from gatecore.tasks.reports import report
from gatecore.tasks.training.config import Config, ConfigError
from gatecore.tasks.training.run_folder import Folder, Run, RunError, load_same
from gatecore.tasks.training.tensorboard import TensorBoard
from gatecore.tasks.training.trainer import train

PICTURE = "comparison.png"
_METRICS = {"perplexity": ("loss", "perplexity"), "score": ("score", "reward")}
_TIMESCALES = {"smallest": "shortest", "median": "median", "largest": "longest"}
JOB = [(task, mechanism) for task in ("pixels", "copying") for mechanism in ("standard", "U", "UR")]


def compare(
    configs: Sequence[Config],
    out: Path,
    console: rich.console.Console,
    *,
    tensorboard: bool = False,
) -> list[Run]:
    """Train each configuration in a folder of its own below ``out``; print and draw the results.

    A run that has finished there is taken as it is, and one that was stopped is continued; so the
    same call again costs nothing, and picks up what was interrupted. The last line names the
    report (:mod:`gatecore.tasks.reports.report`) of all runs in ``out``.

    Raises
    ------
    ConfigError
        Two configurations would share a folder.
    RunError
        A folder holds a run of another configuration, or cannot be written; ``out`` is itself a
        run's folder, or holds a picture but none of these runs, or a page that is no report.
        Nothing has been trained then.
    Interrupted
        After SIGINT or SIGTERM.
    """
    _check(configs, out)
    runs = []
    for config in configs:
        folder = out / _name(config)
        before = (folder / "summary.json").exists()
        run = train_with_progress(config, folder, console, resume=True, tensorboard=tensorboard)
        console.print(f"{_label(config)}: {run.status}{', already there' if before else ''}")
        runs.append(run)
    console.print(results_table(runs))
    console.print(f"Picture: {draw(runs, out)}", soft_wrap=True)
    console.print(f"Report: {report.write(report.read(out), out)}", soft_wrap=True)
    return runs


def _check(configs: Sequence[Config], out: Path) -> None:
    """Refuse before anything is trained what would stop the job, or harm what is in ``out``."""
    names = [_name(config) for config in configs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(twice)} given twice: each run needs a folder of its own")
    if (out / "config.json").exists():
        raise RunError(f"{out} holds a run itself: choose another output folder for several runs")
    held = 0
    for name, config in zip(names, configs, strict=True):
        if (out / name / "config.json").exists():
            load_same(out / name, config)
            held += 1
        else:
            Folder(out / name).check_free()
    if not held and (out / PICTURE).exists():
        raise RunError(f"{out / PICTURE} is of other runs, and would be replaced: remove it, or "
                       "choose another output folder")  # fmt: skip
    report.check_free(out)


def train_with_progress(
    config: Config,
    folder: Path,
    console: rich.console.Console,
    *,
    resume: bool = False,
    tensorboard: bool = False,
) -> Run:
    """:func:`gatecore.tasks.train` under a progress bar with the current loss or score.

    With ``tensorboard`` event files for it come into the folder, too.
    """
    sink = TensorBoard(folder) if tensorboard else None
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[name]} {task.fields[value]:.4f}"),
        rich.progress.TimeRemainingColumn(),
    )
    hidden = not console.is_terminal  # it would leave nothing but blank lines in a log
    with (
        sink or contextlib.nullcontext(),
        rich.progress.Progress(
            *columns, console=console, transient=True, disable=hidden
        ) as progress,
    ):
        bar = progress.add_task(
            _label(config), total=config.steps, name=config.task.shown, value=float("nan")
        )
        run = train(
            config,
            folder,
            resume=resume,
            on_step=lambda step, value: progress.update(bar, completed=step, value=value),
            on_metrics=sink.add if sink else None,
        )
        if sink:
            sink.add_gates(run)
    return run


def results_table(runs: Sequence[Run]) -> rich.console.Group:
    """Test scores beside the trivial baselines, a table for each task."""
    tables = [_table_of(title, group) for title, group in _by_task(runs)]
    return rich.console.Group(
        *(part for table in tables for part in (table, "")),
        "Scores on the test set. Timescales 1/(1 − g) of the units after training, in steps.",
    )


def _table_of(title: str, runs: Sequence[Run]) -> rich.table.Table:
    table = rich.table.Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=rich.box.SIMPLE,
        padding=(0, 1, 0, 0),
        show_edge=False,
        pad_edge=False,
    )
    table.add_column("gates")
    columns = _METRICS.get(runs[0].config.task.score, ("loss", "accuracy"))
    for column in (*columns, "parameters", "seconds", *_TIMESCALES.values()):
        table.add_column(column, justify="right", no_wrap=True)
    for run in runs:
        table.add_row(_gates(run), *_results(run))
    for name, scores in runs[0].config.task.baselines().items():
        table.add_row(name, *_scores(scores), style="italic")
    return table


def draw(runs: Sequence[Run], out: Path) -> Path:
    """Learning curves and gate histograms, before and after, of all runs in one picture."""
    from gatecore.analysis.figures import Panel, comparison  # matplotlib takes a second to load

    panels = []
    for title, group in _by_task(runs):
        task = group[0].config.task
        panels.append(
            Panel(
                title=title,
                score=f"validation {task.score}",
                curves={_gates(r): r.curve("validation", task.score) for r in group},
                baselines={
                    name: scores[task.score]
                    for name, scores in task.baselines().items()
                    if task.score in scores
                },
                gates={_gates(r): (r.gates("before"), r.gates("after")) for r in group},
            )
        )
    path = out / PICTURE
    try:
        comparison(panels).savefig(path, dpi=130)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
    return path


def _by_task(runs: Sequence[Run]) -> Iterator[tuple[str, list[Run]]]:
    for title, group in groupby(runs, key=lambda run: run.config.task.title):
        yield title, list(group)


def _gates(run: Run) -> str:
    return run.config.mechanism.name


def _name(config: Config) -> str:
    """A run's folder: what distinguishes it among its siblings."""
    parts = (config.task.name, config.core, config.mechanism.name, f"seed{config.seed}")
    return "-".join(part for part in parts if part != "lstm")


def _label(config: Config) -> str:
    return f"{config.task.title}, {config.mechanism.name}"


def _results(run: Run) -> tuple[str, ...]:
    summary: dict[str, Any] = run.summary or {}
    if run.status != "finished":
        return (run.status,)
    after = summary["timescales"]["after"]
    return (
        *_scores(summary["test"]),
        f"{summary['parameters']:,}",
        f"{summary['seconds']:.0f}",
        *("∞" if after[key] is None else f"{after[key]:.3g}" for key in _TIMESCALES),
    )


def _scores(scores: Mapping[str, float | None]) -> tuple[str, str]:
    if "score" in scores:
        return f"{scores['score']:.2f}", f"{scores['reward']:.2f}" if "reward" in scores else ""
    accuracy, perplexity = scores.get("accuracy"), scores.get("perplexity")
    loss = "not finite" if scores["loss"] is None else f"{scores['loss']:.4f}"
    if perplexity is not None:
        return loss, f"{perplexity:.2f}"
    return loss, "" if accuracy is None else f"{accuracy:.1%}"


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder for the runs and the picture.",
)
def main(out: Path) -> None:
    """Compare standard, U and UR gates on digits read pixel by pixel and on the Copy task."""
    with refusals():
        configs = [Config.of(task, mechanism) for task, mechanism in JOB]
        compare(configs, out, rich.console.Console())


if __name__ == "__main__":
    main()
