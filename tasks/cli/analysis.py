"""``gatecore report``, ``verify`` and ``figures``: runs, and the paper's claims and figures."""

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatecore.tasks.cli.settings import FOLDER, reported_errors
from gatecore.tasks.reports.report import read, write
from gatecore.tasks.reports.trial import Trial
from gatecore.tasks.safe_files import literal, printable, replacing
from gatecore.tasks.training.atomic_files import output_folder
from gatecore.tasks.training.run import load_run
from gatecore.tasks.training.run import upgrade as add_checksums

if TYPE_CHECKING:
    from gatecore.analysis.figures import Canvas


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--out", type=FOLDER, help="Folder of the three files.  [default: FOLDER-report, beside it]"
)
def report(folder: Path, out: Path | None) -> None:
    """Write report.html, results.json and results.csv of all runs below FOLDER.

    The page needs no network, and names folders that cannot be read with the reason. Nothing is
    written in FOLDER unless --out names it. Without any run the exit status is 1.
    """
    with reported_errors():
        results = read(folder)
        name = os.path.basename(os.path.abspath(folder))
        beside = Path(os.path.normpath(folder / ".." / f"{name}-report"))  # of "." and ".." as well
        page = write(results, out or beside)
    for note in results.notes:
        click.echo(f"Left out: {note.folder}: {note.reason}", err=True)
    if not results.trials:
        click.echo(printable(f"There is no run in {folder} that can be read."), err=True)
    click.echo(printable(f"Report: {page}"))
    if not results.trials:
        raise SystemExit(1)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def upgrade(folder: Path) -> None:
    """Add checksums to the run in FOLDER that an early version of gatecore wrote without them.

    Whatever the files hold counts as intact: do this with folders of your own alone.
    """
    with reported_errors():
        add_checksums(folder)
    click.echo(printable(f"Upgraded: {folder}"))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the claims as a JSON array.")
@click.option("--evidence", is_flag=True, help="Also print the evidence for each claim.")
def verify(as_json: bool, evidence: bool) -> None:
    """Check each claim of the paper with the library's functions.

    Prints a line for each claim: the verdict, the paper's statement, the true one, and the method.
    The exit status is 0 if each verdict is the expected one, else 1.
    """
    from gatecore.analysis.claims import propositions

    claims = []
    for proposition in propositions():
        claim = proposition.judge()
        claims.append(claim)
        if as_json:
            continue
        click.echo(f"{' ' if claim.ok else '!'} {claim.verdict:<18}  {claim.name}: "
                   f"{claim.statement}. TRUE: {claim.truth}. BY: {claim.method}")  # fmt: skip
        if evidence or not claim.ok:
            click.echo(f"      {claim.evidence}")
    expected = sum(claim.ok for claim in claims)
    if as_json:
        records = [dataclasses.asdict(claim) for claim in claims]
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
    else:
        click.echo(f"{expected} of {len(claims)} verdicts as expected")
    if expected < len(claims):
        raise SystemExit(1)


@click.command()
@click.option("--out", type=FOLDER, required=True, help="Folder of the figures; made if missing.")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of a run: also draw its "
              "learning curve and gate histograms (Figures 3, 4, 9).")  # fmt: skip
@click.option("--format", "suffix", type=click.Choice(["png", "pdf", "svg"]), default="png",
              show_default=True)  # fmt: skip
def figures(out: Path, run: Path | None, suffix: str) -> None:
    """Draw the paper's figures with the library's functions."""
    from gatecore.analysis.figures import theory

    with reported_errors(), output_folder(out):
        drawn: dict[str, Any] = theory() | dict(_figures_of_run(run) if run else ())
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            path = out / f"{name}.{suffix}"
            with replacing(path) as stream:
                figure.savefig(stream, dpi=200, format=suffix)
            click.echo(printable(str(path)))


def _figures_of_run(folder: Path) -> Iterator[tuple[str, "Canvas"]]:
    """Figure 3's curve and the histograms of Figures 4 and 9."""
    from gatecore.analysis.figures import gate_histograms, learning_curves

    run = Trial.of(load_run(folder), str(folder)).run  # raises an error about contradictions
    label, task = literal(run.config.mechanism.name), run.config.task
    curves, title = {label: run.curve("validation", task.score)}, literal(task.title)
    yield "figure3_learning_curve", learning_curves(curves, {}, f"{task.score}, {title}")
    gates = run.gates("before"), run.gates("after")
    if any(gates):
        yield "figure4_gate_histograms", gate_histograms({label: gates})
