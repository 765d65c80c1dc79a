"""`gatecore verify` and `gatecore figures`: the paper's claims judged, its figures drawn."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gatecore.tasks.cli.errors import Refused
from gatecore.tasks.training.run_folder import RunError, load_run

if TYPE_CHECKING:
    from gatecore.analysis.figures import Canvas


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the claims as a JSON array.")
@click.option("--evidence", is_flag=True, help="Print also what was shown for each claim.")
def verify(as_json: bool, evidence: bool) -> None:
    """Judge each claim of the paper by running the library's own functions.

    One line per claim: the verdict, what the paper says, what is true, and how it was established.
    Exit status 0 only if each verdict is the one expected of a right library.
    """
    from gatecore.analysis.claims import propositions

    claims = []
    for proposition in propositions():
        claim = proposition.judge()
        claims.append(claim)
        if not as_json:
            mark = " " if claim.ok else "!"
            click.echo(
                f"{mark} {claim.verdict:<18}  {claim.name}: {claim.statement}. "
                f"TRUE: {claim.truth}. BY: {claim.method}"
            )
            if evidence or not claim.ok:
                click.echo(f"      {claim.evidence}")
    right = sum(claim.ok for claim in claims)
    if as_json:
        click.echo(
            json.dumps([dataclasses.asdict(c) for c in claims], indent=2, ensure_ascii=False)
        )
    else:
        click.echo(f"{right} of {len(claims)} verdicts as expected")
    if right < len(claims):
        raise SystemExit(1)


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder for the pictures; made if need be.",
)
@click.option(
    "--run",
    "run",
    type=click.Path(path_type=Path),
    help="A run's folder: adds its learning curve and gate histograms (Figures 3, 4, 9).",
)
@click.option(
    "--format", "suffix", type=click.Choice(["png", "pdf", "svg"]), default="png", show_default=True
)
def figures(out: Path, run: Path | None, suffix: str) -> None:  # fmt: skip
    """Draw the figures of the paper from what the library computes."""
    from gatecore.analysis.figures import theory

    try:
        drawn: dict[str, Any] = theory() | dict(_of_run(run) if run else ())
        out.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            path = out / f"{name}.{suffix}"
            figure.savefig(path, dpi=200)
            click.echo(path)
    except (RunError, OSError) as error:
        raise Refused(str(error)) from error


def _of_run(folder: Path) -> Iterator[tuple[str, "Canvas"]]:
    """Figure 3's curve and Figures 4 and 9's histograms, as far as the run has got."""
    from gatecore.analysis.figures import gate_histograms, learning_curves

    run = load_run(folder)
    label, score = run.config.mechanism.name, run.config.task.score
    yield (
        "figure3_learning_curve",
        learning_curves(
            {label: run.curve("validation", score)}, {}, f"{score}, {run.config.task.title}"
        ),
    )
    gates = run.gates("before"), run.gates("after")
    if any(gates):
        yield "figure4_gate_histograms", gate_histograms({label: gates})
