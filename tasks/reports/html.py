"""The report as one HTML page that needs no network: tables, and figures as inline SVG."""

import importlib.metadata
import io
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from gatecore import Gate
from gatecore.analysis import figures
from gatecore.analysis.figures import Band
from gatecore.tasks.reports.aggregate import Group, Report, Trial, Variant, median
from gatecore.tasks.reports.summary import findings

BANDS = {
    (20, 80): "The line is the median of the seeds, the band holds the middle 60 % of them "
    "(as in the paper's Figure 3).",
    (25, 75): "The line is the median of the seeds, the band reaches from quartile to quartile "
    "(as in the paper's Figure 5).",
    None: "The line is the mean over the last 1 % of the data, the band its 95 % confidence "
    "interval (as in the paper's Figure 6).",
}
TIMESCALES = ("smallest", "median", "largest")


Drawn = tuple[Any, str, str]  # a figure, what it shows in words, its caption


class Picture(NamedTuple):
    """A figure in the page."""

    svg: markupsafe.Markup
    caption: str


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


def duration(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"


def _section(group: Group, anchor: str) -> dict[str, Any]:
    """What the template shows of a group."""
    reference = group.reference
    return {
        "anchor": anchor,
        "title": group.title,
        "differing": _settings(group.differing),
        "findings": findings(group),
        "columns": _columns(group),
        "rows": [_row(group, variant) for variant in group.variants],
        "baselines": [(name, group.score.show(value))
                      for name, value in group.baseline_scores().items()],
        "reference": reference,
        "score": group.score,
        "pictures": _pictures(group, anchor),
        "settings": _settings(group.settings),
        "runs": [_run(trial) for trial in group.trials],
    }  # fmt: skip


def _columns(group: Group) -> list[tuple[str, str]]:
    """Keys of a row, and their headings."""
    name, paper = group.score.name, group.reference
    tuned = any(len(variant.rates) > 1 for variant in group.variants)
    second = any(_second(variant) is not None for variant in group.variants)
    return [
        *([("rate", "learning rate")] if tuned else []),
        ("best", f"best validation {name}, any seed"),
        ("median_best", "the same, median of seeds"),
        ("test", f"test {name}, median"),
        ("seeds", "test, each seed"),
        *([("second", "test accuracy, median")] if second else []),
        *([("paper", f"paper: {paper.source}")] if paper else []),
        ("parameters", "parameters"),
        ("seconds", "time, median"),
        ("timescales", "timescales after: shortest, median, longest"),
    ]


def _row(group: Group, variant: Variant) -> dict[str, Any]:
    score, reference, trials = group.score, group.reference, variant.chosen
    shown = {
        "rate": f"{variant.rate:g}",
        "best": score.show(variant.best) + variant.stars,
        "median_best": score.show(variant.median_best),
        "test": score.show(median(variant.tests.values())),
        "seeds": ", ".join(_seed(trial) for trial in trials),
        "second": _percent(_second(variant)),
        "parameters": _integers(trial.parameters for trial in trials),
        "seconds": duration(_median(trial.seconds for trial in trials)),
        "timescales": _timescales(trials),
    }
    if reference:
        shown["paper"] = reference.value(trials[0].config.mechanism) or "–"
    return {
        "label": variant.label,
        "shown": shown,
        "strong": {key for key in ("best", "median_best", "test") if _leads(group, variant, key)},
    }


def _leads(group: Group, variant: Variant, key: str) -> bool:
    """Whether the variant's number is the best of several."""

    def number(v: Variant) -> float | None:
        return median(v.tests.values()) if key == "test" else getattr(v, key)

    known = [value for v in group.variants if (value := number(v)) is not None]
    return len(known) > 1 and number(variant) == group.score.best(known)


def _seed(trial: Trial) -> str:
    if trial.test is not None:
        return trial.score.show(trial.test)
    if trial.status == "finished":
        return "not finite"
    return (
        "diverged"
        if trial.status == "diverged"
        else f"at\N{NO-BREAK SPACE}step\N{NO-BREAK SPACE}{trial.step}"
    )


def _second(variant: Variant) -> float | None:
    """The median test accuracy, where that is not the score."""
    if variant.score.name == "accuracy":
        return None
    tests = ((t.run.summary or {}).get("test") or {} for t in variant.chosen)
    return median(a for test in tests if (a := test.get("accuracy")) is not None)


def _run(trial: Trial) -> dict[str, str]:
    test = (trial.run.summary or {}).get("test") or {}
    return {
        "folder": trial.folder,
        "gates": trial.config.mechanism.name,
        "learning rate": f"{trial.config.learning_rate:g}",
        "seed": str(trial.seed),
        "status": trial.status,
        "steps": f"{trial.step:,} of {trial.config.steps:,}",
        "best validation": trial.score.show(trial.best),
        **_tested(trial.score.name, test),
        "time": duration(trial.seconds),
    }


def _tested(score: str, test: Mapping[str, float | None]) -> dict[str, str]:
    """Of games their score, reward and length; else loss and accuracy."""
    if score == "score":
        return {
            f"test {name}": _number(test.get(name), ".2f") for name in ("score", "reward", "length")
        }
    return {
        "test loss": _number(test.get("loss"), ".4g"),
        "test accuracy": _percent(test.get("accuracy")),
    }


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _pictures(group: Group, anchor: str) -> list[Picture]:
    drawn = [*_curves(group), *_histograms(group)]
    return [
        Picture(svg(figure, f"{anchor}f{k}", told), caption)
        for k, (figure, told, caption) in enumerate(drawn, start=1)
    ]


def _curves(group: Group) -> Iterator[Drawn]:
    """All in one plot; where they are many, each in one of its own as well."""
    score, bands = group.score, {v.label: band_of(v) for v in group.variants}
    shown = bands, group.baseline_scores(), f"validation {score.name}"
    ends = "; ".join(
        f"{label} {score.show(float(band.middle[-1]))}"
        for label, band in bands.items()
        if len(band.steps)
    )
    told = f"{group.title}: {shown[2]} against training steps. At the end: {ends or 'no values'}."
    single = all(len(variant.chosen) == 1 for variant in group.variants)
    how = "One seed each: no band." if single else BANDS[score.band]
    further = _rates(group) + _crosses(bands)
    many = len(bands) > figures.FEW
    here = "The lines alone; their bands are in the next figure." if many else how
    yield figures.learning_bands(*shown), told, f"Learning curves. {here}{further}"
    if many:
        caption = f"The same, one kind of gates at a time, the others in grey. {how}"
        yield figures.learning_grid(*shown), told, caption


def _histograms(group: Group) -> Iterator[Drawn]:
    gates = {v.label: (_units(v, "before"), _units(v, "after")) for v in group.variants}
    if not any(gate for pair in gates.values() for gate in pair):
        return
    yield (
        figures.gate_rows(gates),
        _quartiles(gates, "value"),
        (
            "Forget gates of the units, means over time and batch, before training (grey outline) "
            "and after; all seeds together (as in the paper's Figures 4 and 9)."
        ),
    )
    yield (
        figures.timescale_rows(gates),
        _quartiles(gates, "timescale"),
        (
            "The same as timescales 1/(1 − g), in steps; what is longer than the axis counts in "
            "the last bin."
        ),
    )


def band_of(variant: Variant) -> Band:
    """The validation curves of a variant's chosen runs, as the paper draws such a task."""
    curves = [trial.curve for trial in variant.chosen]
    percentiles = variant.score.band
    if percentiles:
        band = figures.quantile_band(curves, *percentiles)
    else:
        band = figures.trailing_band(curves, 0.01 * variant.chosen[0].config.steps)
    ends = tuple((float(steps[-1]), float(values[-1]))
                 for steps, values in (trial.curve for trial in variant.diverged)
                 if len(steps))  # fmt: skip
    return band._replace(ends=ends)


def svg(figure: Any, prefix: str, description: str) -> markupsafe.Markup:
    """A figure as an SVG element, its identifiers unlike those of any other in the page."""
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": prefix}):
        assert isinstance(figure, Figure)
        figure.savefig(stream, format="svg", metadata={"Date": None}, transparent=True)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", text)
    named = f'role="img" aria-labelledby="{prefix}-description"'
    told = f'<desc id="{prefix}-description">{markupsafe.escape(description)}</desc>'
    head, rest = text.split(">", 1)
    return markupsafe.Markup(f"{head} {named}>{told}{rest}")


def _units(variant: Variant, when: str) -> Gate | None:
    """The gates of all units of the chosen runs, in one row."""
    found = [gate for trial in variant.chosen if (gate := trial.gates(when))]
    if not found:
        return None
    return Gate(*(np.concatenate([np.ravel(side) for side in sides])
                  for sides in zip(*found, strict=True)))  # fmt: skip


def _quartiles(gates: Mapping[str, tuple[Gate | None, Gate | None]], what: str) -> str:
    """The histograms in words."""
    told = []
    for label, pair in gates.items():
        for when, gate in zip(("before", "after"), pair, strict=True):
            if gate:
                with np.errstate(divide="ignore"):
                    values = gate.value if what == "value" else 1 / gate.complement
                spread = np.quantile(values, [0.25, 0.5, 0.75], method="nearest")
                told.append(f"{label} {when}: {', '.join(f'{v:.3g}' for v in spread)}")
    return f"Histograms of {what}s. Quartiles: {'; '.join(told)}."


def _rates(group: Group) -> str:
    tuned = any(len(variant.rates) > 1 for variant in group.variants)
    return " Each at its learning rate of the best validation score." if tuned else ""


def _crosses(bands: Mapping[str, Band]) -> str:
    if not any(band.ends for band in bands.values()):
        return ""
    return " A cross marks the last validation of a seed that diverged."


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(key.replace("_", " "), "none" if value is None else str(value))
            for key, value in settings.items()]  # fmt: skip


def _timescales(trials: Sequence[Trial]) -> str:
    """Shortest, median and longest: of each the median over the runs that ended."""
    ended = [trial.timescales("after") for trial in trials if trial.status != "unfinished"]
    if not ended:
        return "–"
    return " · ".join(_steps(statistics.median_low(_infinite(told.get(key)) for told in ended))
                      for key in TIMESCALES)  # fmt: skip


def _infinite(steps: float | None) -> float:
    return np.inf if steps is None else steps  # JSON has no infinity


def _steps(value: float) -> str:
    return "∞" if np.isinf(value) else f"{value:.3g}"


def _median(values: Iterable[float | None]) -> float | None:
    return median(value for value in values if value is not None)


def _integers(values: Iterable[int | None]) -> str:
    return ", ".join(dict.fromkeys(f"{value:,}" for value in values if value is not None)) or "–"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f}\N{NO-BREAK SPACE}%"
