"""``gatecore sweep``: the flags, and the file that can take their place."""

import json
from pathlib import Path
from typing import Any

import click
import rich.console

from gatecore.tasks.cli.errors import refusals
from gatecore.tasks.sweeps.config import SweepConfig, read_toml
from gatecore.tasks.sweeps.display import Display, results_table
from gatecore.tasks.sweeps.scheduler import describe
from gatecore.tasks.sweeps.scheduler import sweep as run_sweep
from gatecore.tasks.training.config import ConfigError


@click.command()
@click.argument("task", metavar="[TASK]", required=False)
@click.option(
    "--mechanisms", help="Names with commas between, or all that the task can use.  [default: all]"
)
@click.option("--lr", help="Learning rates, with commas between.  [default: by preset]")
@click.option("--seeds", help="How many (3: 0, 1 and 2), or which (0,1,5).  [default: 0]")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=V1,V2",
    help="Values of any other setting: one holds for all trials, several are an axis.",
)
@click.option("--core", help="As of train; several with commas between.  [default: lstm]")
@click.option("--preset", help="quick or paper.  [default: quick]")
@click.option("--backend", help="Array framework.  [default: numpy, or torch where needed]")
@click.option("--steps", type=int, help="Training steps.  [default: by preset]")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the sweep, with a folder for each trial.  [default: runs/TASK-sweep]",
)
@click.option("--workers", type=int, help="Processes on this machine.  [default: by its cores]")
@click.option("--threads", type=int, help="BLAS threads of each.  [default: by preset]")
@click.option(
    "--dask", metavar="ADDRESS", help="A Dask scheduler, whose workers train: tcp://HOST:PORT."
)
@click.option(
    "--config",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A TOML file with the same keys; what is given here comes before it.",
)
def sweep(task: str | None, assignments: tuple[str, ...], file: Path | None, **given: Any) -> None:
    """Train TASK in every combination of mechanisms, learning rates, seeds and settings.

    The same command again goes on with what is not done. A trial whose process dies is continued
    from its last checkpoint; after three deaths it has failed, and the exit status is 1. A trial
    that diverges is a result.
    """
    console = rich.console.Console()
    with refusals():
        config = _config(task, assignments, file, given)
        trials, left_out = config.trials()
        for why in left_out:
            console.print(f"left out: {why}", highlight=False, markup=False)
        told = ", ".join(f"{name}: {value}" for name, value in describe(config).items())
        console.print(f"{len(trials)} trials in {config.out}; {told}", soft_wrap=True,
                      highlight=False, markup=False)  # fmt: skip
        with Display(console) as display:
            swept = run_sweep(config, display)
    console.print(results_table(swept))
    for name, reason in swept.failed.items():
        console.print(f"{name} failed: {reason}", soft_wrap=True, highlight=False, markup=False)
    console.print(f"Report: gatecore report {config.out}", soft_wrap=True, highlight=False)
    if swept.failed:
        raise SystemExit(1)


def _config(
    task: str | None, assignments: tuple[str, ...], file: Path | None, given: dict[str, Any]
) -> SweepConfig:
    """The flags, and for what they don't say, the file."""
    keys = read_toml(file) if file else {}
    keys |= {name: value for name, value in given.items() if value is not None}
    inner = keys.get("set", {})
    if assignments and isinstance(inner, dict):
        keys["set"] = {**inner, **_axes(assignments)}
    task = task or keys.get("task")
    if not isinstance(task, str):
        raise ConfigError('no task is named: gatecore sweep TASK, or task = "..." in the file')
    keys.pop("task", None)
    return SweepConfig.of(task, **keys)


def _axes(assignments: tuple[str, ...]) -> dict[str, list[Any]]:
    axes: dict[str, list[Any]] = {}
    for text in assignments:
        key, separator, values = text.partition("=")
        if not separator or not key.strip() or not values.strip():
            raise ConfigError(f"--set {text!r} should be KEY=VALUE or KEY=V1,V2, for example "
                              "length=50,100")  # fmt: skip
        if key.strip() in axes:
            raise ConfigError(f"{key.strip()} is given twice")
        axes[key.strip()] = _values(values)
    return axes


def _values(text: str) -> list[Any]:
    """Values as JSON, which may have commas within brackets; else words between commas."""
    try:
        return json.loads(f"[{text}]")
    except json.JSONDecodeError:
        return [_value(part.strip()) for part in text.split(",")]


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None if text.lower() == "none" else text
