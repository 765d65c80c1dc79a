"""``gatecore train``: one run, or one for each of several mechanisms."""

import difflib
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from gatecore.tasks.cli import task_settings
from gatecore.tasks.cli.compare import compare
from gatecore.tasks.cli.results import results_table, train_with_progress
from gatecore.tasks.cli.settings import FOLDER, Console, read_assignments, reported_errors
from gatecore.tasks.sweeps.config import read_mechanisms, variant_name
from gatecore.tasks.training.config import ELSEWHERE, TASKS, Config, first_equals
from gatecore.tasks.training.tensorboard import TensorBoard
from gatecore.tasks.training.trackers import Tracker, WeightsAndBiases


@click.command(
    cls=task_settings.Command,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.argument("task", metavar="TASK", shell_complete=task_settings.complete)  # fmt: skip
@click.option("--mechanism", default="UR", show_default=True, help="Gate mechanism, also with "
              "fields, as in C(t_max=8). Several, separated by commas, are trained in folders "
              "below OUT.")  # fmt: skip
@click.option("--preset", default="quick", show_default=True,
              help="quick, paper, or another one of the task.")  # fmt: skip
@click.option("--backend", help="Array framework.  [default: numpy, or torch where needed]")
@click.option("--core", help="lstm, gru, minimal, mingru; on torch also rmc, dnc, rma.  "
              "[default: lstm]")  # fmt: skip
@click.option("--seed", type=int, help="Seed of weights and data.  [default: 0]")
@click.option("--steps", type=int, help="Training steps.  [default: by preset]")
@click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Any other setting, "
              "e.g. length=500, learning_rate=1e-3, mechanism.downsize=8.")  # fmt: skip
@click.option("--out", type=FOLDER,
              help="Folder of the run.  [default: runs/TASK-MECHANISM-seedSEED]")  # fmt: skip
@click.option("--resume", is_flag=True, help="Continue the run in OUT from its last checkpoint, or "
              "print its results if it has ended. Implied by several mechanisms.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Print the complete settings as JSON, a list for "
              "several mechanisms; train nothing.")  # fmt: skip
@click.option("--tensorboard", is_flag=True, help="Also write event files for TensorBoard.")
@click.option("--wandb", metavar="PROJECT", help="Also write to this project at Weights & Biases; "
              "WANDB_MODE=offline keeps it on this machine.")  # fmt: skip
@click.pass_context
def train(
    context: click.Context, /, task: str, mechanism: str, preset: str, assignments: tuple[str, ...],
    out: Path | None, resume: bool, dry_run: bool, tensorboard: bool, wandb: str | None,
    **options: Any,
) -> None:  # fmt: skip
    """Train a model on TASK, and write a folder with the results.

    Tasks: copying, adding, forgetting, pixels, language, programs, match;
    and, to test the agent, tmaze, chain, cartpole.

    Every setting is also an option: `--length 500` is `--set length=500`. `gatecore train TASK
    --help` lists the settings of a task.

    A run whose loss explodes is recorded as diverged. That is a result: the exit status is 0.
    """
    console = Console()
    with reported_errors():
        settings = read_assignments((*assignments, *_further(task, context.args)), options)
        gates = read_mechanisms(mechanism)
        configs = [Config.of(task, one, preset, **settings) for one in gates]
        names = [*map(variant_name, gates)]
        for k, first in reversed([*enumerate(first_equals(configs))]):
            if names[k] != names[first]:
                click.echo(f"left out: {names[k]}: trains the model of {names[first]}", err=True)
                del configs[k], names[k]
        if dry_run:
            dumps = [config.model_dump(mode="json") for config in configs]
            click.echo(json.dumps(dumps if len(gates) > 1 else dumps[0], indent=1))
            return
        trackers: list[Callable[[Path, Config], Tracker]] = []
        if tensorboard:
            trackers.append(lambda folder, _: TensorBoard(folder))
        if wandb is not None:
            trackers.append(functools.partial(WeightsAndBiases, project=wandb))
        if len(configs) > 1:
            compare(configs, out or Path("runs"), console, names, trackers=trackers)
            return
        folder = out or Path("runs") / f"{task}-{names[0]}-seed{configs[0].seed}"
        run = train_with_progress(configs[0], folder, console, resume=resume, trackers=trackers)
    console.print(results_table([run]))
    console.print(f"Run: {folder}", soft_wrap=True)


def _further(task: str, words: Sequence[str]) -> Iterator[str]:
    """Options named as settings, as KEY=VALUE (a lone ``--permute`` is true), or click's error."""
    of_task = TASKS[task].model_fields if task in TASKS else ()  # Config.of reports another task
    known = [*of_task, *(name for name in Config.model_fields if name not in ELSEWHERE)]
    rest = list(words)
    while rest:
        word, has_value, value = rest.pop(0).partition("=")
        name = word.removeprefix("--").replace("-", "_")
        if not word.startswith("--"):
            raise click.UsageError(f"Got unexpected extra argument ({word})")
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *(str(p.name) for p in train.params)])
            options = [f"--{option.replace('_', '-')}" for option in near]
            raise click.NoSuchOption(word, possibilities=options)
        if not has_value:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        yield f"{name}={value}"
