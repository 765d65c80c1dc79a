"""``gatecore report``: the report of a folder of runs."""

from pathlib import Path

import click

from gatecore.tasks.cli.errors import reported_errors
from gatecore.tasks.cli.settings import FOLDER
from gatecore.tasks.reports.report import read, write


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=FOLDER, help="Folder of the three files.  [default: FOLDER]")
def report(folder: Path, out: Path | None) -> None:
    """Write report.html, results.json and results.csv of all runs below FOLDER.

    The page needs no network, and names folders that cannot be read with the reason.
    """
    with reported_errors():
        results = read(folder)
        page = write(results, out or folder)
    for note in results.notes:
        click.echo(f"Left out: {note.folder}: {note.reason}", err=True)
    if not results.trials:
        click.echo(f"There is no run in {folder} that can be read.", err=True)
    click.echo(f"Report: {page}")
