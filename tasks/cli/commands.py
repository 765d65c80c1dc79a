"""The command line: ``gatecore gates | train | sweep | report | verify | figures``."""

import difflib
import importlib.metadata
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gatecore.tasks import missing

try:
    import click
    import rich.console

    from gatecore.mechanisms import CORES
    from gatecore.tasks.cli.analysis import figures, verify
    from gatecore.tasks.cli.compare import compare, results_table, train_with_progress
    from gatecore.tasks.cli.errors import refusals
    from gatecore.tasks.cli.gates import gates_table
    from gatecore.tasks.cli.report import report
    from gatecore.tasks.cli.sweep import sweep
    from gatecore.tasks.training.config import ELSEWHERE, TASKS, Config, ConfigError
except ModuleNotFoundError as error:
    sys.exit(f"Error: {missing(error)}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(importlib.metadata.version("gatecore"), prog_name="gatecore")
def main() -> None:
    """Recurrent gates that can be learned near 0 and 1: compare, train, verify."""


main.add_command(verify)
main.add_command(figures)
main.add_command(report)
main.add_command(sweep)


@main.command()
@click.option("--hidden-size", type=click.IntRange(1), default=256, show_default=True)
@click.option("--input-size", type=click.IntRange(1), default=10, show_default=True)
@click.option("--core", type=click.Choice(CORES), default="lstm", show_default=True)
@click.option("--downsize", type=click.IntRange(1), default=16, show_default=True,
              help="Units that share a master gate.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
def gates(hidden_size: int, input_size: int, core: str, downsize: int, seed: int) -> None:
    """Print the table of mechanisms, with parameter counts and initial timescales.

    Timescales, in steps, are quantiles over the units of one layer, of the effective forget gate
    with its initial biases and no input.
    """
    with refusals():
        table = gates_table(core, input_size, hidden_size, downsize, seed)
    rich.console.Console().print(table)


@main.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
@click.argument("task", metavar="TASK")
@click.option(
    "--mechanism",
    default="UR",
    show_default=True,
    help="Gate mechanism, or several with commas between: then OUT gets a folder each.",
)
@click.option("--preset", default="quick", show_default=True, help="quick or paper.")
@click.option("--backend", help="Array framework.  [default: numpy, or torch where needed]")
@click.option("--core", help="lstm, gru, minimal, rmc, dnc, rma, ...  [default: lstm]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--steps", type=int, help="Training steps.  [default: by preset]")
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    help="Any other setting, e.g. length=500, learning_rate=1e-3, mechanism.downsize=8.",
)
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run.  [default: runs/TASK-MECHANISM-seedSEED]",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in OUT from its last checkpoint; take it as it is if it has ended. "
    "Several mechanisms always do.",
)
@click.option("--tensorboard", is_flag=True, help="Write event files for TensorBoard, too.")
@click.pass_context
def train(
    context: click.Context, /, task: str, mechanism: str, preset: str, assignments: tuple[str, ...],
    out: Path | None, resume: bool, tensorboard: bool, **given: Any,
) -> None:  # fmt: skip
    """Train TASK and leave a folder with the results.

    Tasks: copying, adding, forgetting, pixels, language, programs, match;
    and as checks of the agent tmaze, chain, cartpole.

    Every setting is an option, too: `--length 500` is `--set length=500`.

    A run whose loss explodes is recorded as diverged; that is a result, and exits with 0.
    """
    console = rich.console.Console()
    with refusals():
        settings = _settings(given, (*assignments, *_own_options(task, context.args)))
        configs = [Config.of(task, name.strip(), preset, **settings)
                   for name in mechanism.split(",")]  # fmt: skip
        if len(configs) > 1:
            compare(configs, out or Path("runs"), console, tensorboard=tensorboard)
            return
        folder = out or Path("runs") / f"{task}-{configs[0].mechanism.name}-seed{configs[0].seed}"
        run = train_with_progress(
            configs[0], folder, console, resume=resume, tensorboard=tensorboard
        )
    console.print(results_table([run]))
    console.print(f"Run: {folder}", soft_wrap=True)


def _settings(given: dict[str, Any], assignments: tuple[str, ...]) -> dict[str, Any]:
    """The options that were given and the values of --set, none of them twice."""
    settings = {name: value for name, value in given.items() if value is not None}
    for key, value in map(_assignment, assignments):
        if key in settings:
            raise ConfigError(f"{key} is given twice")
        settings[key] = value
    return settings


def _own_options(task: str, words: Sequence[str]) -> Iterator[str]:
    """Options named as settings of the task or the run, as KEY=VALUE; a lone ``--permute`` is true.

    Raises click's own error for any other option.
    """
    own = TASKS[task].model_fields if task in TASKS else ()  # an unknown task is refused later
    known = [*own, *(name for name in Config.model_fields if name not in ELSEWHERE)]
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


def _assignment(text: str) -> tuple[str, Any]:
    """KEY=VALUE; the value as JSON where it is (5, 1e-3, true, null, [0.5, 0.05]), else as text."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ConfigError(f"--set {text!r} should be KEY=VALUE, for example length=500")
    try:
        return key.strip(), json.loads(value)
    except json.JSONDecodeError:
        return key.strip(), None if value.lower() == "none" else value
