"""``gatecore report``, ``verify`` and ``figures``: runs, and the paper's claims and figures."""

import dataclasses
import json
import os
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatecore.tasks.cli.settings import FOLDER, reported_errors
from gatecore.tasks.reports.report import read, write
from gatecore.tasks.reports.trial import Trial
from gatecore.tasks.safe_files import literal, printable, replacing
from gatecore.tasks.training.atomic_files import output_folder, writing
from gatecore.tasks.training.run import load_run
from gatecore.tasks.training.run import upgrade as add_checksums

if TYPE_CHECKING:
    from gatecore.analysis.figures import Canvas


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=FOLDER,
              help="Folder of the three files.  [default: FOLDER-report, beside it]")  # fmt: skip
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
    """Check each claim of the paper with the library's functions, layers and tasks.

    Prints for each claim the verdict, the paper's statement, the true one, and the method; then
    what the paper measured, with the state of our evidence. The exit status is 0 if each verdict is
    the expected one, else 1.
    """
    from gatecore.analysis.claims import empirical
    from gatecore.tasks.cli.claims import propositions, trained

    if not as_json:
        _wrapped(_SYMBOLS, 0)
        click.echo()
    claims = []
    for proposition in propositions():
        claim = proposition.judge()
        claims.append(claim)
        if as_json:
            continue
        stated = f": {claim.statement}. TRUE:" if claim.statement else " (not the paper's). TRUE:"
        _wrapped(f"{' ' if claim.ok else '!'} {claim.verdict:<18}  {claim.name}{stated} "
                 f"{claim.truth}. BY: {claim.method}", 22)  # fmt: skip
        if evidence or not claim.ok:
            _wrapped(f"      {claim.evidence}", 6)
    expected = sum(claim.ok for claim in claims)
    if as_json:
        records = [dataclasses.asdict(claim) for claim in claims]
        click.echo(json.dumps(records, indent=2, ensure_ascii=False))
    else:
        click.echo("\nWhat the paper measured, and our evidence (no proofs):")
        for entry in empirical():
            runs = "".join(f" [docs/evidence/{file}: {group}]" for file, group in entry.runs)
            _wrapped(f"  {entry.state:<24}{entry.claim}. OURS: {entry.note}.{runs}", 26)
        click.echo()
        _wrapped(f"Layers judged: {'; '.join(layer.name for layer in trained())}.", 0)
        of_paper = sum(bool(claim.statement) for claim in claims)
        _wrapped(f"{expected} of {len(claims)} verdicts as expected: {of_paper} claims of the "
                 f"paper, {len(claims) - of_paper} findings", 0)  # fmt: skip
    if expected < len(claims):
        raise SystemExit(1)


_SYMBOLS = ("Symbols: f forget, i input, r refine gate; g effective forget gate; F, I master "
            "gates, w = F I; ^ an effective gate of theirs; L logit, b initial bias; D = 1/(1-g) "
            "timescale in steps; d hidden size, n master gates, C units for each; u candidate, or "
            "a uniform number.")  # fmt: skip


def _wrapped(text: str, indent: int) -> None:
    """Print the text wrapped at the terminal's width, lines after the first indented."""
    width = max(40, shutil.get_terminal_size().columns)
    click.echo(textwrap.fill(text, width, subsequent_indent=" " * indent, break_on_hyphens=False))


@click.command()
@click.option("--out", type=FOLDER, required=True, help="Folder of the figures; made if missing.")
@click.option("--run", type=click.Path(path_type=Path), help="Folder of a run: also draw its "
              "learning curve and gate histograms (Figures 3, 4, 9).")  # fmt: skip
@click.option("--format", "suffix", type=click.Choice(["png", "pdf", "svg"]), default="png",
              show_default=True)  # fmt: skip
def figures(out: Path, run: Path | None, suffix: str) -> None:
    """Draw the paper's figures with the library's functions."""
    from gatecore.analysis.figures import theory

    with reported_errors():
        drawn: dict[str, Any] = theory() | dict(_figures_of_run(run) if run else ())
        with output_folder(out):
            out.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            path = out / f"{name}.{suffix}"
            with writing(path), replacing(path) as stream:
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
