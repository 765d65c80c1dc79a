"""Train several configurations one after the other, and compare their results.

``python -m gatecore.tasks.cli.compare --out runs`` is the command of ``make run``: digits read
pixel by pixel in bit-reversed order, and the Copy task, with standard, U and UR gates.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import rich.console

from gatecore.tasks.cli.__main__ import run
from gatecore.tasks.cli.results import by_task, results_table, train_with_progress
from gatecore.tasks.cli.settings import FOLDER, Console, reported_errors
from gatecore.tasks.reports import report
from gatecore.tasks.reports.collect import labels
from gatecore.tasks.safe_files import literal, replacing
from gatecore.tasks.training.atomic_files import RunError, writing
from gatecore.tasks.training.config import Config, ConfigError
from gatecore.tasks.training.run import Run, load_same
from gatecore.tasks.training.run_folder import Folder, subfolder
from gatecore.tasks.training.trackers import Tracker

PICTURE = "comparison.png"


def job() -> list[Config]:
    """The configurations of ``make run``."""
    tasks: dict[str, dict[str, Any]] = {"pixels": {"permute": True}, "copying": {}}
    mechanisms = ("standard", "U", "UR")
    return [Config.of(task, m, **tasks[task]) for task in tasks for m in mechanisms]


def compare(
    configs: Sequence[Config], out: Path, console: rich.console.Console,
    gates: Sequence[str] = (), *, trackers: Sequence[Callable[[Path, Config], Tracker]] = (),
) -> list[Run]:  # fmt: skip
    """Train each configuration in a folder of its own below ``out``; print and draw the results.

    ``gates`` name the mechanisms in folders and titles, by default each by its own name.

    ``out`` is made if it does not exist; the ``trackers`` are made for each run.
    Finished runs are reused and interrupted ones continued, so the same call resumes a comparison.
    The last line names the report (:mod:`gatecore.tasks.reports.report`) of all runs in ``out``.

    Raises ConfigError if two configurations would share a folder; RunError, before any training, if
    a folder holds a run of another configuration or cannot be written, or ``out`` is a run's folder
    or holds other files of the names to write; and Interrupted after SIGINT or SIGTERM.
    """
    gates = gates or [config.mechanism.name for config in configs]
    names = [*map(_name, configs, gates)]
    _check(configs, names, out)
    runs = []
    for config, name, gate in zip(configs, names, gates, strict=True):
        reused = ", already there" if (out / name / "summary.json").exists() else ""
        run = train_with_progress(config, out / name, console, gate, resume=True,
                                  trackers=trackers)  # fmt: skip
        console.print(f"{config.task.title}, {gate}: {run.status}{reused}")
        runs.append(run)
    console.print(results_table(runs))
    console.print(f"Picture: {draw(runs, out)}", soft_wrap=True)
    console.print(f"Report: {report.write(report.read(out), out)}", soft_wrap=True)
    return runs


def _check(configs: Sequence[Config], names: Sequence[str], out: Path) -> None:
    """Raise, before any training, for what would stop it or damage files in ``out``."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{', '.join(twice)} given twice: each run needs a folder of its own; "
                          "remove one")  # fmt: skip
    if Folder(out).holds_run():
        raise RunError(f"{out} holds a run itself: choose another output folder for several runs")
    present = [Folder(subfolder(out, name)).holds_run() for name in names]
    for name, config, holds_run in zip(names, configs, present, strict=True):
        if holds_run:
            load_same(out / name, config)
        else:
            Folder(out / name).check_free()
    if not any(present) and os.path.lexists(out / PICTURE):
        raise RunError(f"{out / PICTURE} is of other runs, and would be replaced: remove it, or "
                       "choose another output folder")  # fmt: skip
    report.check_free(out)


def draw(runs: Sequence[Run], out: Path) -> Path:
    """Draw learning curves and gate histograms of all runs in one picture."""
    from gatecore.analysis.figures import Panel, comparison  # matplotlib takes a second to load

    panels = []
    for title, group in by_task(runs):
        task, gate = group[0].config.task, labels(run.config.mechanism for run in group)
        named = {gate[run.config.mechanism]: run for run in group}
        curves = {name: run.curve("validation", task.score) for name, run in named.items()}
        gates = {name: (run.gates("before"), run.gates("after")) for name, run in named.items()}
        scores = task.baselines().items()
        baselines = {name: values[task.score] for name, values in scores if task.score in values}
        panels.append(Panel(literal(title), f"validation {task.score}", curves, baselines, gates))
    path = out / PICTURE
    with writing(path), replacing(path) as stream:
        comparison(panels).savefig(stream, dpi=130, format="png")
    return path


def _name(config: Config, gates: str) -> str:
    """The name of a run's folder among the others."""
    parts = (config.task.name, config.core, gates, f"seed{config.seed}")
    return "-".join(part for part in parts if part != "lstm")


@click.command()
@click.option("--out", type=FOLDER, default=Path("runs"), show_default=True,
              help="Folder of the runs, the picture and the report.")  # fmt: skip
def main(out: Path) -> None:
    """Compare standard, U and UR gates on bit-reversed digits and on the Copy task."""
    with reported_errors():
        compare(job(), out, Console())


if __name__ == "__main__":
    run("compare")
