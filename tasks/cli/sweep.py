"""``gatecore sweep``: options, or a file with the same keys."""

from pathlib import Path
from typing import Any

import click

from gatecore.tasks.cli.settings import FOLDER, Console, read_assignments, reported_errors
from gatecore.tasks.sweeps.config import SweepConfig, read_toml
from gatecore.tasks.sweeps.display import Display, results_table
from gatecore.tasks.sweeps.scheduler import describe
from gatecore.tasks.sweeps.scheduler import sweep as run_sweep
from gatecore.tasks.training.config import ConfigError


@click.command()
@click.argument("task", metavar="[TASK]", required=False)
@click.option("--mechanisms", help="Names separated by commas, also with fields, as "
              "in C(t_max=8); or all.  [default: all]")  # fmt: skip
@click.option("--lr", help="Learning rates, separated by commas.  [default: by preset]")
@click.option("--seeds", help="Their number (3: 0, 1 and 2) or a list (0,1,5).  [default: 0]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=V1,V2", help="Values of any "
              "other setting; several are combined with all others.")  # fmt: skip
@click.option("--core", help="Names as of gatecore train, separated by commas.  [default: lstm]")
@click.option("--preset", help="quick or paper.  [default: quick]")
@click.option("--backend", help="Array framework.  [default: numpy, or torch where needed]")
@click.option("--steps", type=int, help="Training steps.  [default: by preset]")
@click.option("--out", type=FOLDER, help="Folder of the trials.  [default: runs/TASK-sweep]")
@click.option("--workers", type=int, help="Processes on this machine.  [default: by its cores]")
@click.option("--threads", type=int, help="BLAS threads of each process.  [default: by preset]")
@click.option("--dask", metavar="ADDRESS",
              help="Train on the workers of a Dask scheduler at tcp://HOST:PORT.")  # fmt: skip
@click.option("--config", "file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A TOML file with the same keys; options override it.")  # fmt: skip
def sweep(task: str | None, assignments: tuple[str, ...], file: Path | None,
          **options: Any) -> None:  # fmt: skip
    """Train TASK with all combinations of mechanisms, learning rates, seeds and settings.

    The same command continues an interrupted sweep. A trial whose process dies is continued from
    its last checkpoint; after three deaths it has failed, and the exit status is 1. A trial that
    diverges is a result.
    """
    console = Console(highlight=False)
    with reported_errors():
        config = _config(task, assignments, file, options)
        trials, left_out = config.trials()
        for reason in left_out:
            console.print(f"left out: {reason}")
        workers = ", ".join(f"{name}: {value}" for name, value in describe(config).items())
        console.print(f"{len(trials)} trials in {config.out}; {workers}", soft_wrap=True)
        with Display(console) as display:
            swept = run_sweep(config, display)
    console.print(results_table(swept))
    for name, reason in swept.failed.items():
        console.print(f"{name} failed: {reason}", soft_wrap=True)
    console.print(f"Report: gatecore report {config.out}", soft_wrap=True)
    if swept.failed:
        raise SystemExit(1)


def _config(task: str | None, assignments: tuple[str, ...], file: Path | None,
            options: dict[str, Any]) -> SweepConfig:  # fmt: skip
    """The options, and for those that are not set the file."""
    keys = read_toml(file) if file else {}
    keys |= {name: value for name, value in options.items() if value is not None}
    settings = keys.get("set", {})
    if assignments and isinstance(settings, dict):
        keys["set"] = {**settings, **read_assignments(assignments, {}, several=True)}
    in_file = keys.pop("task", None)
    if not isinstance(task := task or in_file, str):
        raise ConfigError('no task is named: gatecore sweep TASK, or task = "..." in the file')
    return SweepConfig.of(task, **keys)
