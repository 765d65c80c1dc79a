"""The pictures of the pages, drawn from the library and from stored results.

``python docs/_ext/pictures.py`` draws the one of the README, ``docs/_static/copy.png``.
"""

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gatecore
from gatecore import analysis

DOCS = Path(__file__).resolve().parents[1]
COLORS = {"standard": "#767676", "C": "#a5691b", "O": "#8c4ba6", "U": "#1f77b4", "R": "#c2447c",
          "OM": "#ad6cc4", "OR": "#6a2d85", "UM": "#4b9cd3", "UR": "#117a43"}  # fmt: skip
WIDTH = 7.2  # inches, of a page's column


@functools.cache
def groups() -> dict[str, dict[str, Any]]:
    """The groups of the stored results by title; of two with one title, the one of more runs."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted((DOCS / "evidence").glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8"))["groups"]:
            title = group["title"]
            if title not in found or len(found[title]["runs"]) < len(group["runs"]):
                found[title] = group
    return found


def axes(height: float, columns: int = 1, **settings: Any) -> tuple[Figure, Any]:
    """A figure as wide as the page, and its axes."""
    figure = Figure((WIDTH, height), layout="constrained")
    made = figure.subplots(1, columns, **settings)
    for one in np.ravel(made):
        one.spines[["top", "right"]].set_visible(False)
        one.grid(alpha=0.25)
    return figure, made


def learning_curves(
    title: str, variants: dict[str, str], baseline: str, height: float = 3.0
) -> Figure:
    """Validation losses of variants, by a label and a folder's prefix; a line for each seed."""
    group = groups()[title]
    figure, plot = axes(height)
    for label, prefix in variants.items():
        runs = [run for run in group["runs"] if run["folder"].startswith(prefix)]
        color = COLORS[runs[0]["mechanism"]]
        for run in runs:
            curve = run["validation"]
            plot.plot(curve["step"], curve["loss"], color=color, linewidth=1.6)
        last = float(np.median([run["validation"]["loss"][-1] for run in runs]))
        end = runs[0]["validation"]["step"][-1]
        plot.annotate(
            label, (end, last), (6, 0), textcoords="offset points", color=color, va="center"
        )
    loss = next(iter(group["baselines"].values()))
    plot.axhline(loss, color="black", linestyle=":", linewidth=1)
    plot.annotate(baseline, (0, loss), (4, 5), textcoords="offset points", fontsize=9)
    plot.set(
        xlabel="training step", ylabel="loss, nats per symbol", xlim=(0, end), ylim=(0, 1.1 * loss)
    )
    return figure


def copy() -> Figure:
    """The first picture: one word of difference on the Copy task."""
    runs = {
        'mechanism="standard"': "copy100/copying-standard-",
        'mechanism="U"': "copy100/copying-U-",
        'mechanism="UR"': "refine-copy/copying-UR-uniform-",
    }
    return learning_curves("Copy, N=100", runs, "a guess (ln 8)")


def gate_shapes() -> Figure:
    """The effective forget gate against the forget logit, for each kind of auxiliary gate."""
    logit = np.linspace(-8, 8, 400)
    forget = gatecore.sigmoid(logit)
    figure, (left, right) = axes(3.0, 2, sharex=True)
    values = {"plain": forget}
    for r in (0.0, 1.0):
        values[f"refine, r = {r:g}"] = gatecore.refine(forget, np.full_like(logit, r))
    inner = np.full_like(logit, 0.5)
    masters = forget, gatecore.negate(forget)
    values["master, inner gates ½"] = gatecore.master(*masters, inner, inner)[0]
    styles = ("-", "--", "-", "-.")
    colors = (COLORS[name] for name in ("standard", "R", "UR", "OM"))
    for (label, gate), style, color in zip(values.items(), styles, colors, strict=True):
        left.plot(logit, gate.value, style, color=color, label=label)
        right.semilogy(logit, gatecore.timescale(gate), style, color=color)
    left.set(xlabel="forget logit", ylabel="effective forget gate")
    right.set(xlabel="forget logit", ylabel="timescale, steps")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def initial_timescales(hidden_size: int = 512) -> Figure:
    """The share of a layer's units whose initial timescale exceeds a number of steps."""
    figure, plot = axes(3.4)
    quantiles = 1 - np.geomspace(1, 1 / hidden_size, 200)
    for name in gatecore.MECHANISMS:
        fields = {"C": {"t_max": 784}, "OM": {"downsize": 16}, "UM": {"downsize": 16}}
        one = gatecore.mechanism(name, **fields.get(name, {}))
        steps = analysis.timescale_quantile(one, hidden_size, quantiles)
        style = {"R": (0, (2, 2)), "OM": "--", "UM": "--"}.get(name, "-")  # R starts as standard
        plot.loglog(steps, 1 - quantiles, linestyle=style, color=COLORS[name], label=name)
    plot.set(xlabel="timescale, steps", ylabel="share of units beyond it", xlim=(1, 1e4))
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def seeds(title: str) -> Figure:
    """Test scores of a group: a dot for each seed, a bar at the median; the best on the right."""
    group = groups()[title]
    name, higher = group["score"]["name"], group["score"]["higher_is_better"]
    variants = sorted(
        group["mechanisms"].items(),
        key=lambda item: item[1]["median_test"] * (1 if higher else -1),
    )
    figure, plot = axes(0.9 + 0.26 * len(variants))
    for row, (label, variant) in enumerate(variants):
        color = COLORS[label.split()[0]]
        scores = [score for score in variant["test_by_seed"].values() if score is not None]
        plot.plot(scores, [row] * len(scores), "o", color=color, alpha=0.7, markersize=5)
        plot.plot(variant["median_test"], row, "|", color=color, markersize=16, markeredgewidth=2)
    for value in group["baselines"].values():
        plot.axvline(value, color="black", linestyle=":", linewidth=1)
    plot.set_yticks(range(len(variants)), [label for label, _ in variants])
    plot.set(xlabel=f"test {name}", title=title)
    percent(plot, name)
    return figure


def percent(plot: Axes, name: str) -> None:
    """Mark an axis of accuracies in percent."""
    if name == "accuracy":
        plot.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


if __name__ == "__main__":
    copy().savefig(DOCS / "_static" / "copy.png", dpi=150)
