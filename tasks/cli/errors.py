"""Errors of the command line: one message, no traceback, an exit status that scripts can read."""

import contextlib
import signal
from collections.abc import Iterator

import click

from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.signals import Interrupted

_CONTINUE = "The same command continues it (gatecore train: with --resume)."


class InputError(click.ClickException):
    """Bad input: exit status 2."""

    exit_code = 2


@contextlib.contextmanager
def reported_errors() -> Iterator[None]:
    """Print the library's errors, and exit.

    The status is 2 for bad input, and for a run that a signal stopped 128 plus its number.
    """
    try:
        yield
    except (ConfigError, DataError, RunError) as error:
        raise InputError(str(error)) from error
    except Interrupted as stopped:
        click.echo(f"{stopped}. {_CONTINUE}", err=True)
        raise SystemExit(128 + stopped.signum) from stopped
    except KeyboardInterrupt as stopped:  # the first signal in the training loop is Interrupted
        remains = f" {stopped}. {_CONTINUE}" if stopped.args else ""
        click.echo(f"Stopped.{remains}", err=True)
        raise SystemExit(128 + signal.SIGINT) from stopped
