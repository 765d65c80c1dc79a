"""Parts of several commands: errors, folders as options, and settings as KEY=VALUE."""

import contextlib
import json
import signal
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import rich.console

from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.safe_files import printable
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import ConfigError, read_value
from gatecore.tasks.training.signals import Interrupted

FOLDER = click.Path(file_okay=False, path_type=Path)
ONE = "KEY=VALUE, for example length=500"
SEVERAL = "KEY=VALUE or KEY=V1,V2, for example length=50,100"
_CONTINUE = "The same command continues it (gatecore train: with --resume)."


class InputError(click.ClickException):
    """Bad input: exit status 2."""

    exit_code = 2


class Console(rich.console.Console):
    """Prints text as it is: no markup in it, and its control characters as escapes."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, **settings)

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as rich does, in the form above."""
        super().print(*(printable(o) if isinstance(o, str) else o for o in objects), **settings)


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Print errors without a traceback; exit with 2 for bad input, or 128 plus the signal."""
    try:
        yield
    except (ConfigError, DataError, RunError) as error:
        raise InputError(printable(str(error))) from error
    except Interrupted as stopped:
        click.echo(f"{stopped}. {_CONTINUE}", err=True)
        raise SystemExit(128 + stopped.signum) from stopped
    except KeyboardInterrupt as stopped:  # the first signal in the training loop is Interrupted
        remains = f" {stopped}. {_CONTINUE}" if stopped.args else ""
        click.echo(f"Stopped.{remains}", err=True)
        raise SystemExit(128 + signal.SIGINT) from stopped


def read_assignments(texts: Iterable[str], options: Mapping[str, Any], *,
                     several: bool = False) -> dict[str, Any]:  # fmt: skip
    """The options that are not None, and the values of KEY=VALUE texts; ConfigError for others."""
    settings = {name: value for name, value in options.items() if value is not None}
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key or (several and not value.strip()):
            raise ConfigError(f"--set {text!r} should be {SEVERAL if several else ONE}")
        if key in settings:
            raise ConfigError(f"{key} is given twice: remove one of the two")
        settings[key] = read_values(value) if several else read_value(value)
    return settings


def read_values(text: str) -> list[Any]:
    """Values between commas, as JSON, which may have commas within brackets, or else as text."""
    try:
        return json.loads(f"[{text}]")
    except (ValueError, RecursionError):
        return [read_value(part.strip()) for part in text.split(",")]
