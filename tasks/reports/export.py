"""A report as JSON and as CSV."""

import csv
import dataclasses
import io
import json
import unicodedata
from typing import Any

import numpy as np

import gatecore
from gatecore.tasks.reports.aggregate import Group, Report, Variant
from gatecore.tasks.reports.collect import is_shared
from gatecore.tasks.reports.trial import Trial
from gatecore.tasks.safe_files import printable
from gatecore.tasks.training.atomic_files import finite

POINTS = 100  # of a curve in results.json
_COLUMNS = ("core", "mechanism.name", "learning_rate", "seed")  # settings with a name of their own


def data(report: Report) -> str:
    """results.json: each group with its table, differences, settings and thinned curves."""
    value = {"generator": f"gatecore {gatecore.__version__}", "folder": report.name,
             "groups": [_group(group) for group in report.groups],
             "notes": [dataclasses.asdict(note) for note in report.notes],
             "environment": report.environments()}  # fmt: skip
    return json.dumps(finite(value), indent=1, ensure_ascii=True) + "\n"


def table(report: Report) -> str:
    """results.csv: a line for each run; numbers in full, an empty field for an unknown value.

    Text that a spreadsheet would take for a formula has an apostrophe before it.
    """
    rows = [{name: text(value) for name, value in _row(group.title, trial).items()}
            for group in report.groups for trial in group.trials]  # fmt: skip
    stream = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["folder"]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def text(value: Any) -> Any:
    """A value for a CSV file: no text is a formula, no character is invisible."""
    if not isinstance(value, str):
        return value
    wide = unicodedata.normalize("NFKC", value[:64].lstrip())  # some take full-width signs, too
    formula = wide.startswith(("=", "+", "-", "@"))
    return ("'" if formula else "") + printable(value)


def thinned(count: int) -> np.ndarray:
    """Indices of at most 100 of ``count`` points, evenly, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))


def record(trial: Trial) -> dict[str, Any]:
    """A run, without the settings that its group shares."""
    steps, values = trial.curve
    points = thinned(len(steps))
    return {
        "folder": trial.folder, "mechanism": trial.config.mechanism.name,
        "settings": {k: v for k, v in trial.settings().items() if not is_shared(k)},
        "status": trial.status, "step": trial.step, "best_validation": trial.best,
        **{k: trial.summary.get(k) for k in ("test", "parameters", "seconds", "timescales")},
        "validation": {"step": steps[points].tolist(), trial.score.name: values[points].tolist()},
    }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    return {
        "title": group.title, "differing": group.differing, "settings": group.settings,
        "score": {"name": group.score.name, "higher_is_better": group.score.higher},
        "baselines": group.baseline_scores(),
        "paper": dataclasses.asdict(group.reference) if group.reference else None,
        "mechanisms": {v.label: _variant(group, v) for v in group.variants},
        "compared_with": group.standard.label,
        "differences": {k: dataclasses.asdict(v) for k, v in group.differences.items()},
        "runs": [record(trial) for trial in group.trials],
    }  # fmt: skip


def _variant(group: Group, variant: Variant) -> dict[str, Any]:
    mechanism = variant.trials[0].config.mechanism
    return {
        "learning_rate": variant.rate, "learning_rates": variant.rates,
        "best_validation": variant.best, "median_best_validation": variant.median_best,
        "median_test": variant.median_test,
        "test_by_seed": {str(seed): value for seed, value in variant.tests.items()},
        "diverged": [t.seed for t in variant.diverged],
        "stable_learning_rate": variant.stable, "collapsed": [t.seed for t in variant.collapsed],
        "unfinished": [t.seed for t in variant.unfinished],
        "paper": group.reference.value(mechanism) if group.reference else None,
    }  # fmt: skip


def _row(title: str, trial: Trial) -> dict[str, Any]:
    config, score = trial.config, trial.score.name
    times = {f"timescale_{when}_{key}": value for when in ("before", "after")
             for key, value in trial.timescales(when).items()}  # fmt: skip
    return {
        "folder": trial.folder, "task": title, "core": config.core,
        "mechanism": config.mechanism.name, "learning_rate": config.learning_rate,
        "seed": trial.seed, "status": trial.status, "step": trial.step,
        f"best_validation_{score}": trial.best, f"test_{score}": trial.test,
        "test_loss": trial.tested.get("loss"), "test_accuracy": trial.tested.get("accuracy"),
        "parameters": trial.summary.get("parameters"), "seconds": trial.summary.get("seconds"),
        **times, **{k: v for k, v in trial.settings().items() if k not in _COLUMNS},
    }  # fmt: skip
