"""``gatecore report``: writes the report of a folder of runs."""

from pathlib import Path

import click

from gatecore.tasks.cli.errors import refusals
from gatecore.tasks.reports.report import read, write


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where to write.  [default: FOLDER]",
)
def report(folder: Path, out: Path | None) -> None:
    """Write report.html, results.json and results.csv of all runs below FOLDER.

    The page needs no network. A folder that cannot be read is named there with the reason.
    """
    with refusals():
        results = read(folder)
        page = write(results, out or folder)
    for note in results.notes:
        click.echo(f"Left out: {note.folder}: {note.reason}", err=True)
    if not results.trials:
        click.echo(f"There is no run in {folder} that can be read.", err=True)
    click.echo(f"Report: {page}")
