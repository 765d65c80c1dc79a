"""The command line: ``gatecore gates | train | sweep | report | upgrade | verify | figures``."""

import sys

import gatecore
from gatecore.tasks import missing

try:
    import click

    from gatecore.tasks.cli.analysis import figures, report, upgrade, verify
    from gatecore.tasks.cli.gates import gates
    from gatecore.tasks.cli.sweep import sweep
    from gatecore.tasks.cli.train import train
except ModuleNotFoundError as error:
    sys.exit(f"Error: {missing(error)}")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(gatecore.__version__, prog_name="gatecore")
def main() -> None:
    """Recurrent gates that can be learned near 0 and 1: train, compare, verify."""


for command in (figures, gates, report, sweep, train, upgrade, verify):
    main.add_command(command)
