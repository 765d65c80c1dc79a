"""A folder of runs as a page of tables and figures, as JSON and as CSV."""

import csv
import dataclasses
import importlib.metadata
import io
import json
import os
from pathlib import Path
from typing import Any

from gatecore.tasks.reports.aggregate import Report, Trial
from gatecore.tasks.reports.collect import collect
from gatecore.tasks.training.atomic_files import finite, replace
from gatecore.tasks.training.run_folder import RunError

PAGE, DATA, TABLE = NAMES = ("report.html", "results.json", "results.csv")
_MADE = '<meta name="generator" content="gatecore '


def read(folder: str | os.PathLike[str]) -> Report:
    """All runs below a folder as results: groups of comparable runs, and notes on what is bad.

    Parameters
    ----------
    folder : path
        Searched recursively; it may be a run's folder itself.

    Returns
    -------
    Report
        Its ``groups`` hold runs that differ in gates, learning rate and seed alone, its ``notes``
        the folders that could not be read, with the reason.

    Raises
    ------
    RunError
        ``folder`` is no folder, or cannot be listed.
    """
    return collect(folder)


def write(report: Report, out: str | os.PathLike[str]) -> Path:
    """Write report.html, results.json and results.csv; the path of the page.

    Raises
    ------
    RunError
        ``out`` cannot be written, or holds files of these names that are not a report's.
    """
    from gatecore.tasks.reports.html import render  # matplotlib and Jinja take a second to load

    out = Path(out)
    check_free(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{out} cannot be an output folder: {error.strerror}") from error
    texts = {TABLE: table(report), DATA: data(report), PAGE: render(report)}
    for name, text in texts.items():
        replace(out / name, text.encode("utf-8", "replace"))
    return out / PAGE


def check_free(out: Path) -> None:
    """Raise RunError if a report in ``out`` would replace files that are none. Writes nothing."""
    try:
        held = [name for name in NAMES if (out / name).exists()]
        page = (out / PAGE).read_text(encoding="utf-8", errors="replace") if PAGE in held else ""
    except OSError as error:
        raise RunError(f"{out} cannot be an output folder: {error.strerror}") from error
    if held and _MADE not in page:
        raise RunError(f"{out / held[0]} is not of a report of gatecore, and would be replaced: "
                       "move it, or choose another output folder")  # fmt: skip


def data(report: Report) -> str:
    """results.json: every group with its table, differences, settings and thinned curves."""
    value = {
        "generator": f"gatecore {importlib.metadata.version('gatecore')}",
        "folder": report.name,
        "groups": [group.record() for group in report.groups],
        "notes": [dataclasses.asdict(note) for note in report.notes],
        "environment": report.environments(),
    }
    return json.dumps(finite(value), indent=1, ensure_ascii=True) + "\n"


def table(report: Report) -> str:
    """results.csv: a line for each run; numbers in full, an empty field for what is not known."""
    rows = [_row(group.title, trial) for group in report.groups for trial in group.trials]
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["folder"]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _row(title: str, trial: Trial) -> dict[str, Any]:
    test = (trial.run.summary or {}).get("test") or {}
    times = {
        f"timescale_{when}_{key}": value
        for when in ("before", "after")
        for key, value in trial.timescales(when).items()
    }
    return {
        "folder": trial.folder, "task": title, "core": trial.config.core,
        "mechanism": trial.config.mechanism.name, "learning_rate": trial.config.learning_rate,
        "seed": trial.seed, "status": trial.status, "step": trial.step,
        f"best_validation_{trial.score.name}": trial.best, f"test_{trial.score.name}": trial.test,
        "test_loss": test.get("loss"), "test_accuracy": test.get("accuracy"),
        "parameters": trial.parameters, "seconds": trial.seconds, **times,
        **{k: v for k, v in trial.settings().items() if k not in _TOLD},
    }  # fmt: skip


_TOLD = ("core", "mechanism.name", "learning_rate", "seed")
