"""The pictures of the pages, drawn from the library and from stored results.

``python docs/_ext/pictures.py`` draws the one of the README, ``docs/_static/copy.png``.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import NullFormatter
from paper import result
from stored_results import groups, scores

import gatecore
from gatecore import analysis
from gatecore.tasks.cli import gates
from gatecore.tasks.reports.paired_statistics import compare

DOCS = Path(__file__).resolve().parents[1]
COLORS = {"standard": "#767676", "C": "#a5691b", "O": "#8c4ba6", "U": "#1f77b4", "R": "#c2447c",
          "OM": "#ad6cc4", "OR": "#6a2d85", "UM": "#4b9cd3", "UR": "#117a43"}  # fmt: skip
FRAMEWORKS = {"torch": "#ee4c2c", "NumPy": "#4d77cf", "JAX": "#7b3fa0"}
WIDTH = 6.2  # inches: 10 points are then as large as a page's text, and can be read on a phone


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


def time_of_a_step() -> Figure:
    """Microseconds of a time step of training against the length of the sequence, as measured."""
    file = DOCS.parent / "benchmarks" / "results" / "cpu-lengths.json"
    result = json.loads(file.read_text(encoding="utf-8"))
    figure, plot = axes(3.2)
    labels = {"torch.nn.GRU": ("nn.GRU", "#c2447c"), "torch.nn.LSTM": ("nn.LSTM", "#767676"),
              "torch UR": ("UR-LSTM", "#1f77b4"),
              "torch MinGRU UR": ("MinGRU", "#117a43")}  # fmt: skip
    for name, (label, color) in labels.items():
        points = [
            (result["shapes"][shape]["time"], 1e6 * statistics.median(times[name]))
            for shape, times in result["seconds"]["lengths"].items()
            if name in times
        ]
        steps, microseconds = zip(*((t, total / t) for t, total in points), strict=True)
        plot.loglog(steps, microseconds, "o-", color=color, markersize=4)
        plot.annotate(
            label, (steps[-1], microseconds[-1]), (7, 0), textcoords="offset points", color=color,
            va="center",
        )  # fmt: skip
    ticks = [result["shapes"][shape]["time"] for shape in result["seconds"]["lengths"]]
    plot.set_xticks(ticks, [f"{t:,}" for t in ticks])
    plot.minorticks_off()
    plot.set_yticks(
        [10, 20, 50, 100, 200, 500, 1000], ["10", "20", "50", "100", "200", "500", "1000"]
    )
    plot.set(xlabel="steps of the sequence", ylabel="µs per step", xlim=(900, 130_000))
    return figure


def seeds(title: str) -> Figure:
    """Test scores of a group, a dot for each seed, and differences with their 95 % intervals.

    The rows are ordered by the medians, the best on top. The paper's results, if it has any,
    stand on the right.
    """
    group = groups()[title]
    name, higher = group["score"]["name"], group["score"]["higher_is_better"]
    variants = sorted(
        group["mechanisms"].items(),
        key=lambda item: item[1]["median_test"] * (1 if higher else -1),
    )
    base = "standard" if "standard" in group["mechanisms"] else next(iter(group["mechanisms"]))
    figure, (left, right) = axes(1.1 + 0.26 * len(variants), 2, sharey=True)
    for row, (label, variant) in enumerate(variants):
        color = COLORS[label.split()[0]]
        tests = scores(group, label).values()
        left.plot(tests, [row] * len(tests), "o", color=color, alpha=0.7, markersize=5)
        left.plot(variant["median_test"], row, "|", color=color, markersize=16, markeredgewidth=2)
        difference = compare(scores(group, label), scores(group, base))
        if label != base and difference:
            right.plot([difference.low, difference.high], [row] * 2, color=color, linewidth=1.6)
            right.plot(difference.mean, row, "D", color=color, markersize=5)
    for value in group["baselines"].values():
        left.axvline(value, color="black", linestyle=":", linewidth=1)
    right.axvline(0, color="black", linewidth=1)
    rows = range(len(variants))
    left.set_yticks(rows, [label.replace("refine_bias=", "") for label, _ in variants])
    if any(results := [result(group, label) for label, _ in variants]):
        paper = right.secondary_yaxis("right")
        paper.set_yticks(rows, results)
        paper.set_ylabel("the paper")
        paper.spines["right"].set_visible(False)
        paper.tick_params(length=0)
    left.set(xlabel=f"test {name}")
    right.set(xlabel=f"difference from {base}")
    left.set_title(title, fontsize="medium", loc="left")
    for plot in (left, right):
        percent(plot.xaxis, name)
    return figure


def trained_timescales(title: str) -> Figure:
    """Timescales before and after training: of the median and of the slowest unit of each run.

    A hollow dot is the start and a filled one the end; timescales of the mean gates, on a
    logarithmic axis. Infinite ones, of cumax, are left out.
    """
    group = groups()[title]
    labels = list(group["mechanisms"])
    figure, panels = axes(1.1 + 0.3 * len(labels), 2, sharey=True)
    for run in group["runs"]:
        color, row = COLORS[run["mechanism"]], labels.index(_label(run, labels))
        seeds = sorted(scores(group, labels[row]))
        height = row + 0.2 * (seeds.index(run["settings"]["seed"]) - (len(seeds) - 1) / 2)
        for plot, unit in zip(panels, ("median", "largest"), strict=True):
            steps = [run["timescales"][when][unit] for when in ("before", "after")]
            if None not in steps:
                plot.plot(steps, [height] * 2, color=color, linewidth=1)
                plot.plot(steps[0], height, "o", color=color, markerfacecolor="white", markersize=4)
                plot.plot(steps[1], height, "o", color=color, markersize=4)
    panels[0].set_yticks(
        range(len(labels)), [label.replace("refine_bias=", "") for label in labels]
    )
    panels[0].invert_yaxis()
    for plot, unit in zip(panels, ("median", "slowest"), strict=True):
        _logarithmic(plot, f"{unit} unit's timescale, steps")
    panels[0].set_title(title, fontsize="medium", loc="left")
    return figure


def starts_and_scores(*titles: str) -> Figure:
    """Scores of all runs of some groups against the initial timescale of the slowest unit."""
    figure, panels = axes(3.6, len(titles))
    for plot, title in zip(panels, titles, strict=True):
        group = groups()[title]
        name = group["score"]["name"]
        for mechanism in dict.fromkeys(run["mechanism"] for run in group["runs"]):
            runs = [run for run in group["runs"] if run["mechanism"] == mechanism]
            steps = [slowest_start(run, group) for run in runs]
            tests = [run["test"][name] for run in runs]
            style = dict(color=COLORS[mechanism], alpha=0.8, markersize=5, label=mechanism)
            plot.plot(steps, tests, "o", **style)
        for value in group["baselines"].values():
            plot.axhline(value, color="black", linestyle=":", linewidth=1)
        _logarithmic(plot, "slowest unit at the start, steps")
        plot.set(ylabel=f"test {name}")
        plot.set_title(title.replace(", ", ",\n", 1), fontsize="medium", loc="left")
        percent(plot.yaxis, name)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=5, frameon=False)
    return figure


def slowest_start(run: dict[str, Any], group: dict[str, Any]) -> float:
    """The longest finite initial timescale of a run's units, in steps, from its biases.

    The last units of cumax gates have an infinite one, and are never written.
    """
    settings = run["settings"] | group["settings"]
    prefix = "mechanism."
    fields = {k.removeprefix(prefix): v for k, v in settings.items() if k.startswith(prefix)}
    steps = gates.initial_timescales(
        gatecore.Mechanism(**fields), settings["core"], settings["hidden_size"], settings["seed"]
    )
    return float(steps[np.isfinite(steps)].max())


def _logarithmic(plot: Axes, label: str) -> None:
    """A logarithmic axis of steps."""
    plot.set(xscale="log", xlabel=label)
    plot.set_xlim(left=min(1.0, plot.get_xlim()[0]))
    plot.xaxis.set_minor_formatter(NullFormatter())
    plot.xaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _label(run: dict[str, Any], labels: list[str]) -> str:
    """The kind of gates of a run, of these."""
    name = f"{run['mechanism']} (refine_bias={run['settings']['mechanism.refine_bias']})"
    return name if name in labels else run["mechanism"]


def architecture() -> Figure:
    """The packages and what may import what."""
    figure = Figure((7.2, 4.2), layout="constrained")
    plot = figure.subplots()
    plot.set(xlim=(0, 100), ylim=(0, 60))
    plot.axis("off")

    def box(corner: tuple[float, float], size: tuple[float, float], face: str,
            name: str, text: str) -> None:  # fmt: skip
        (x, y), (width, height) = corner, size
        shape = FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=1")
        plot.add_patch(shape)
        shape.set(facecolor=face, edgecolor="#444444")
        plot.text(x + width / 2, y + height - 1.2, name, ha="center", va="top", weight="bold")
        plot.text(x + width / 2, y + 1.2, text, ha="center", va="bottom", fontsize=8.5)

    def imports(x: float, top: float, bottom: float, style: str = "-") -> None:
        properties = dict(arrowstyle="->", linestyle=style)
        plot.annotate("", (x, bottom), (x, top), arrowprops=properties)

    backends = {"numpy": "reference", "cupy": "CUDA kernels", "torch": "layers, RL",
                "jax": "flax, Equinox", "keras": "on torch, JAX"}  # fmt: skip
    core = "gate algebra and derivatives · initial biases · mechanisms · cells · contracts"
    proofs = "claims, checked\nby SymPy and\nnumerically;\nfigures"
    top = "tasks · trainer and run folders · sweeps · reports · command line"
    box((5, 2), (90, 9), "#e4efe7", "gatecore", core)
    box((5, 19), (66, 22), "#e6edf5", "gatecore.backends", "")
    box((74, 19), (21, 22), "#f3eae0", "gatecore.analysis", proofs)
    box((5, 49), (90, 9), "#efe6f2", "gatecore.tasks", top)
    for column, (name, text) in enumerate(backends.items()):
        box((7 + 12.6 * column, 28), (11.6, 8.5), "white", name, text)
    shared = "common · native: the C++ library · cuda: the kernels' sources"
    box((7, 20.5), (62, 6), "white", "", shared)
    imports(38, 19, 11)
    imports(84.5, 19, 11)
    imports(84.5, 49, 41)
    imports(38, 49, 41, "--")
    return figure


def speeds(file: str) -> Figure:
    """Bars of a stored benchmark: the speed of UR layers relative to torch's LSTM by shape.

    A bar is the median of the rounds, the line on it their range.
    """
    path = DOCS.parent / "benchmarks" / "results" / file
    result = json.loads(path.read_text(encoding="utf-8"))
    times, reference = result["seconds"]["kept"], result["reference"]
    shapes = result["shapes"]
    names = [f"{framework} UR" for framework in ("torch", "NumPy", "JAX")]
    names = [name for name in names if all(name in times[shape] for shape in shapes)]
    figure, plot = axes(2.8)
    for k, name in enumerate(names):
        ratios = [
            np.divide(times[shape][reference][: len(times[shape][name])], times[shape][name])
            for shape in shapes
        ]
        medians = np.array([np.median(ratio) for ratio in ratios])
        ends = [medians - [r.min() for r in ratios], [r.max() for r in ratios] - medians]
        place = np.arange(len(shapes)) + (k - (len(names) - 1) / 2) * 0.26
        plot.bar(place, medians, 0.24, yerr=ends, label=name, color=FRAMEWORKS[name.split()[0]])
    plot.axhline(1, color="black", linewidth=1)
    sizes = [
        f"{name}\n{s['time']} × {s['batch']}\n{s['hidden']} units" for name, s in shapes.items()
    ]
    plot.set_xticks(range(len(shapes)), sizes)
    plot.set(ylabel=f"speed, {reference} = 1")
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def percent(axis: Axis, name: str) -> None:
    """Mark an axis of accuracies in percent."""
    if name == "accuracy":
        axis.set_major_formatter(lambda value, _: f"{value:.0%}".replace("-", "−"))


if __name__ == "__main__":
    copy().savefig(DOCS / "_static" / "copy.png", dpi=150)
