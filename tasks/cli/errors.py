"""How the command line says no: one message, no traceback, a status that scripts can read."""

import contextlib
import signal
from collections.abc import Iterator

import click

from gatecore.tasks.problems.data_files import DataError
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run_folder import RunError
from gatecore.tasks.training.trainer import Interrupted

_CONTINUE = "The same command continues it (gatecore train: with --resume)."


class Refused(click.ClickException):
    """Bad input: exit status 2."""

    exit_code = 2


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turn the errors that tell a user what to do into messages with exit statuses.

    Bad input exits with 2, a run stopped by a signal with 128 plus its number, as shells do.
    """
    try:
        yield
    except (ConfigError, DataError, RunError) as error:
        raise Refused(str(error)) from error
    except Interrupted as stopped:
        click.echo(f"{stopped}. {_CONTINUE}", err=True)
        raise SystemExit(128 + stopped.signum) from stopped
    except KeyboardInterrupt as stopped:  # the first signal in the training loop is Interrupted
        claimed = f" {stopped}. {_CONTINUE}" if stopped.args else ""
        click.echo(f"Stopped.{claimed}", err=True)
        raise SystemExit(128 + signal.SIGINT) from stopped
