"""The report as one HTML page that needs no network."""

import base64
import csv
import hashlib
import importlib.resources
import io
import re
import statistics
import urllib.parse
from collections.abc import Iterable

import jinja2
import markupsafe
import numpy as np

import gatecore
from gatecore.tasks.reports import export
from gatecore.tasks.reports.aggregate import Group, Report, Variant, median
from gatecore.tasks.reports.plots import pictures
from gatecore.tasks.reports.summary import summarize
from gatecore.tasks.reports.trial import Trial, percent
from gatecore.tasks.safe_files import printable

_TIMESCALES = ("smallest", "median", "largest")  # of each, the median over the runs that ended


# Runs may be a stranger's: even where a name slipped through unescaped, nothing of it would run.
_POLICY = ("default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
           "form-action 'none'; script-src 'sha256-{}'")  # fmt: skip


def render(report: Report) -> str:
    """The page; equal runs give an equal page, byte for byte."""
    source = importlib.resources.files("gatecore.tasks.reports") / "report.js.j2"
    script = "\n" + source.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gatecore.tasks.reports", "."), autoescape=True,
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )  # fmt: skip
    environment.policies["json.dumps_kwargs"] = {}  # by default it would sort the curves
    environment.filters |= {
        "duration": _duration,
        "metric": _metric,
        "name": lambda key: key.replace("_", " "),
        "setting": lambda value: "none" if value is None else str(value),
    }
    statuses = [trial.status for trial in report.trials]
    return environment.get_template("report.html.j2").render(
        name=report.name, version=gatecore.__version__, groups=report.groups,
        counts={status: statuses.count(status) for status in dict.fromkeys(statuses)},
        total=len(statuses), notes=report.notes, environment=report.environments(),
        title=_title(report), downloads=_downloads, columns_of=_columns, cells_of=_cells,
        seconds_of=_seconds, script=markupsafe.Markup(script), policy=_POLICY.format(digest),
        leads=_leads, pictures=pictures, summarize=summarize,
    )  # fmt: skip


def _columns(group: Group) -> list[tuple[str, str]]:
    """Keys of a row, and their headings."""
    name, paper = group.score.name, group.reference
    tuned = any(len(variant.rates) > 1 for variant in group.variants)
    several = any(len(variant.chosen) > 1 for variant in group.variants)
    median_of = ", median" if several else ""
    second = any(_accuracy(variant) is not None for variant in group.variants)
    return [*([("rate", "learning rate")] if tuned else []),
            ("best", f"best validation {name}" + (", any seed" if several else "")),
            *([("median_best", "the same, median of seeds")] if several else []),
            ("median_test", f"test {name}" + median_of),
            *([("seeds", "test, each seed")] if several else []),
            *([("second", f"test accuracy{median_of}")] if second else []),
            *([("paper", f"paper: {paper.source}")] if paper else []), ("parameters", "parameters"),
            ("seconds", f"time{median_of}"),
            ("timescales", "timescales after: shortest, median, longest")]  # fmt: skip


def _title(report: Report) -> str:
    """The tasks and the kinds of gates that were compared."""
    tasks = list(dict.fromkeys(group.title for group in report.groups))
    gates = list(dict.fromkeys(v.label for group in report.groups for v in group.variants))
    named = "; ".join(tasks[:3]) + (f" and {len(tasks) - 3} more" if len(tasks) > 3 else "")
    kinds = ", ".join(gates) if len(gates) <= 9 else f"{len(gates)} kinds of gates"
    return f"{named}: {kinds}" if tasks else f"Runs in {report.name}"


def _downloads(group: Group) -> dict[str, str]:
    """The table of scores as data URIs, by the name of a file."""
    columns = _columns(group)
    rows = [["gates", *(heading for _, heading in columns)]]
    for variant in group.variants:
        cells = _cells(group, variant)
        rows.append([variant.label, *(cells[key] for key, _ in columns)])
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([[*map(export.text, row)] for row in rows])
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in rows]
    lines = [r"\begin{tabular}{l" + "r" * len(columns) + "}", r"\toprule", lines[0], r"\midrule",
             *lines[1:], r"\bottomrule", r"\end{tabular}", ""]  # fmt: skip
    texts = {"scores.csv": ("text/csv", stream.getvalue()),
             "scores.tex": ("application/x-tex", "\n".join(lines))}  # fmt: skip
    return {name: f"data:{kind};charset=utf-8,{urllib.parse.quote(content)}"
            for name, (kind, content) in texts.items()}  # fmt: skip


def _latex(text: str) -> str:
    """Text without commands of LaTeX; what it has no letter for is a formula."""
    escaped = re.sub(r"[&%$#_{}]", r"\\\g<0>", printable(text).replace("\\", "/"))
    escaped = escaped.replace("~", r"\textasciitilde{}").replace("^", r"\textasciicircum{}")
    signs = {"∞": r"$\infty$", "†": r"$\dagger$", "·": r"$\cdot$", "–": "--", "\xa0": "~"}
    bracket = "{}" if escaped.lstrip().startswith(("[", "*")) else ""  # else arguments of \\
    return bracket + "".join(signs.get(letter, letter) for letter in escaped)


def _cells(group: Group, variant: Variant) -> dict[str, str]:
    """A row by the keys of its columns."""
    score, trials = group.score, variant.chosen
    mechanism = trials[0].config.mechanism
    sizes = dict.fromkeys(trial.summary.get("parameters") for trial in trials)
    ended = [trial.timescales("after") for trial in trials if trial.status != "unfinished"]
    timescales = [_steps(times.get(key) for times in ended) for key in _TIMESCALES if ended]
    return {"rate": f"{variant.rate:g}",
            "best": score.show(variant.best) + "*" * len(variant.diverged),
            "median_best": score.show(variant.median_best),
            "median_test": score.show(variant.median_test),
            "seeds": ", ".join(_test(trial) for trial in trials),
            "second": percent(_accuracy(variant)),
            "parameters": ", ".join(f"{size:,}" for size in sizes if size is not None) or "–",
            "seconds": _duration(_seconds(variant)),
            "timescales": " · ".join(timescales) or "–",
            "paper": (group.reference and group.reference.value(mechanism)) or "–"}  # fmt: skip


def _seconds(variant: Variant) -> float | None:
    return median(trial.summary.get("seconds") for trial in variant.chosen)


def _leads(group: Group, variant: Variant, column: str) -> bool:
    """Whether the variant's number is the best of several."""
    if column not in ("best", "median_best", "median_test"):
        return False
    values = [value for v in group.variants if (value := getattr(v, column)) is not None]
    return len(values) > 1 and getattr(variant, column) == group.score.best(values)


def _test(trial: Trial) -> str:
    if trial.test is not None:
        return trial.score.show(trial.test) + "†" * trial.collapsed
    step = f"at\N{NO-BREAK SPACE}step\N{NO-BREAK SPACE}{trial.step}"
    return {"finished": "not finite", "diverged": "diverged"}.get(trial.status, step)


def _accuracy(variant: Variant) -> float | None:
    """The median test accuracy, if that is not the score."""
    accuracies = (trial.tested.get("accuracy") for trial in variant.chosen)
    return None if variant.score.name == "accuracy" else median(accuracies)


def _metric(value: float | None, name: str) -> str:
    if name == "accuracy":
        return percent(value)
    return "–" if value is None else f"{value:{'.4g' if name == 'loss' else '.2f'}}"


def _duration(seconds: float | None) -> str:
    """Seconds as text, in larger units from two of them on."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _steps(timescales: Iterable[float | None]) -> str:
    """The median, with null, which stands for infinity in JSON, as the longest."""
    steps = statistics.median_low(np.inf if value is None else value for value in timescales)
    return "∞" if np.isinf(steps) else f"{steps:.3g}"
