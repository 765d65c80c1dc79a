"""The report as one HTML page that needs no network."""

import importlib.metadata
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np

from gatecore.tasks.reports.aggregate import Group, Report, Variant, median
from gatecore.tasks.reports.plots import pictures
from gatecore.tasks.reports.summary import summarize
from gatecore.tasks.reports.trial import Trial, percent

_TIMESCALES = ("smallest", "median", "largest")


def render(report: Report) -> str:
    """The page; equal runs give an equal page, byte for byte."""
    loader = jinja2.PackageLoader("gatecore.tasks.reports", ".")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    statuses = [trial.status for trial in report.trials]
    return environment.get_template("report.html.j2").render(
        name=report.name,
        version=importlib.metadata.version("gatecore"),
        groups=[_section(group, f"g{k}") for k, group in enumerate(report.groups, start=1)],
        counts={status: statuses.count(status) for status in dict.fromkeys(statuses)},
        total=len(statuses),
        notes=report.notes,
        environment=report.environments(),
    )


def _section(group: Group, anchor: str) -> dict[str, Any]:
    """The values of a group in the template."""
    return {
        "anchor": anchor,
        "title": group.title,
        "differing": _settings(group.differing),
        "summary": summarize(group),
        "columns": _columns(group),
        "rows": [_row(group, variant) for variant in group.variants],
        "baselines": [(name, group.score.show(value))
                      for name, value in group.baseline_scores().items()],
        "reference": group.reference,
        "pictures": pictures(group, anchor),
        "settings": _settings(group.settings),
        "runs": [_run(trial) for trial in group.trials],
    }  # fmt: skip


def _columns(group: Group) -> list[tuple[str, str]]:
    """Keys of a row, and their headings."""
    name, paper = group.score.name, group.reference
    tuned = any(len(variant.rates) > 1 for variant in group.variants)
    second = any(_accuracy(variant) is not None for variant in group.variants)
    return [
        *([("rate", "learning rate")] if tuned else []),
        ("best", f"best validation {name}, any seed"),
        ("median_best", "the same, median of seeds"),
        ("median_test", f"test {name}, median"),
        ("seeds", "test, each seed"),
        *([("second", "test accuracy, median")] if second else []),
        *([("paper", f"paper: {paper.source}")] if paper else []),
        ("parameters", "parameters"),
        ("seconds", "time, median"),
        ("timescales", "timescales after: shortest, median, longest"),
    ]


def _row(group: Group, variant: Variant) -> dict[str, Any]:
    score, reference, trials = group.score, group.reference, variant.chosen
    cells = {
        "rate": f"{variant.rate:g}",
        "best": score.show(variant.best) + "*" * len(variant.diverged),
        "median_best": score.show(variant.median_best),
        "median_test": score.show(variant.median_test),
        "seeds": ", ".join(_test(trial) for trial in trials),
        "second": percent(_accuracy(variant)),
        "parameters": _parameters(trials),
        "seconds": _duration(median(trial.summary.get("seconds") for trial in trials)),
        "timescales": _timescales(trials),
    }
    if reference:
        cells["paper"] = reference.value(trials[0].config.mechanism) or "–"
    columns = ("best", "median_best", "median_test")
    strong = {column for column in columns if _leads(group, variant, column)}
    return {"label": variant.label, "cells": cells, "strong": strong}


def _leads(group: Group, variant: Variant, column: str) -> bool:
    """Whether the variant's number is the best of several."""
    values = [value for v in group.variants if (value := getattr(v, column)) is not None]
    return len(values) > 1 and getattr(variant, column) == group.score.best(values)


def _test(trial: Trial) -> str:
    if trial.test is not None:
        return trial.score.show(trial.test)
    step = f"at\N{NO-BREAK SPACE}step\N{NO-BREAK SPACE}{trial.step}"
    return {"finished": "not finite", "diverged": "diverged"}.get(trial.status, step)


def _accuracy(variant: Variant) -> float | None:
    """The median test accuracy, if that is not the score."""
    if variant.score.name == "accuracy":
        return None
    return median(trial.tested.get("accuracy") for trial in variant.chosen)


def _run(trial: Trial) -> dict[str, str]:
    return {
        "folder": trial.folder,
        "gates": trial.config.mechanism.name,
        "learning rate": f"{trial.config.learning_rate:g}",
        "seed": str(trial.seed),
        "status": trial.status,
        "steps": f"{trial.step:,} of {trial.config.steps:,}",
        "best validation": trial.score.show(trial.best),
        **_tests(trial.score.name, trial.tested),
        "time": _duration(trial.summary.get("seconds")),
    }


def _tests(score: str, metrics: Mapping[str, float | None]) -> dict[str, str]:
    """Score, reward and length of an agent's episodes; of other tasks loss and accuracy."""
    if score == "score":
        names = ("score", "reward", "length")
        return {f"test {name}": _number(metrics.get(name), ".2f") for name in names}
    return {
        "test loss": _number(metrics.get("loss"), ".4g"),
        "test accuracy": percent(metrics.get("accuracy")),
    }


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _duration(seconds: float | None) -> str:
    """Seconds as text, in larger units from two of them on."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), "none" if value is None else str(value))
            for key, value in settings.items()]  # fmt: skip


def _timescales(trials: Sequence[Trial]) -> str:
    """Shortest, median and longest: of each the median over the runs that ended."""
    ended = [trial.timescales("after") for trial in trials if trial.status != "unfinished"]
    if not ended:
        return "–"
    return " · ".join(_steps(times.get(key) for times in ended) for key in _TIMESCALES)


def _steps(timescales: Iterable[float | None]) -> str:
    """The median, with null, which stands for infinity in JSON, as the longest."""
    steps = statistics.median_low(np.inf if value is None else value for value in timescales)
    return "∞" if np.isinf(steps) else f"{steps:.3g}"


def _parameters(trials: Sequence[Trial]) -> str:
    counts = dict.fromkeys(trial.summary.get("parameters") for trial in trials)
    return ", ".join(f"{count:,}" for count in counts if count is not None) or "–"
