"""Learning curves of several seeds: a middle and a band for each label."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatecore.analysis._style import BEFORE, Canvas, Curve, ink, label_ends, plain, styles

FEW = 4  # bands that can be told apart in one plot
_CONTEXT = "#C8C8C8"


class Band(NamedTuple):
    """A curve with its spread: four arrays (n,), steps and scores at them.

    ``ends`` are the (step, score) where seeds stopped early, because they diverged.
    """

    steps: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ends: tuple[tuple[float, float], ...] = ()


def quantile_band(curves: Sequence[Curve], low: float, high: float) -> Band:
    """The median of several seeds' curves, and two percentiles of them.

    At each step of any curve, over the curves that have it: a seed counts as far as it got.

    Parameters
    ----------
    curves : sequence of (steps, values)
    low, high : float
        Percentiles in [0, 100].

    Examples
    --------
    >>> seeds = [(np.array([0, 10]), np.array([1.0, 2.0])), (np.array([0]), np.array([3.0]))]
    >>> band = quantile_band(seeds, 25, 75)
    >>> band.steps.tolist(), band.middle.tolist(), band.low.tolist(), band.high.tolist()
    ([0, 10], [2.0, 2.0], [1.5, 2.0], [2.5, 2.0])
    """
    steps, found = _at_each_step(curves)
    parts = [np.percentile(values, [50, low, high]) for values in found]
    middle, below, above = np.array(parts).T if parts else np.empty((3, 0))
    return Band(steps, middle, below, above)


def trailing_band(curves: Sequence[Curve], window: float, z: float = 1.96) -> Band:
    """A smoothed curve with the normal 95 % confidence interval of its mean.

    At each step, over all values of all curves in the last ``window`` steps up to there. The band
    has no width where that is one value.

    Parameters
    ----------
    curves : sequence of (steps, values)
    window : float
        In steps.
    z : float
        Standard errors on each side.
    """
    steps, _ = _at_each_step(curves)
    where = np.concatenate([s for s, _ in curves]) if len(steps) else np.empty(0)
    values = np.concatenate([v for _, v in curves]) if len(steps) else np.empty(0)
    middle, error = [], []
    for step in steps:
        inside = values[(where <= step) & (where > step - max(window, 1e-9))]
        middle.append(inside.mean())
        spread = inside.std(ddof=1) if len(inside) > 1 else 0.0
        error.append(z * spread / np.sqrt(len(inside)))
    centre, half = np.array(middle), np.array(error)
    return Band(steps, centre, centre - half, centre + half)


def learning_bands(
    bands: Mapping[str, Band],
    baselines: Mapping[str, float],
    score: str,
    canvas: Canvas | None = None,
) -> Canvas:
    """Scores against steps, all labels in one plot; the bands too, if there are at most four.

    A cross is where a seed stopped early. The scale is logarithmic for scores of many magnitudes.

    Parameters
    ----------
    bands : label -> Band
    baselines : label -> value
        Dashed lines.
    score : str
        Label of the vertical axis.
    canvas : Figure or SubFigure, optional
        Where to draw; default a new Figure.
    """
    canvas = canvas or Figure(figsize=(4.4, 3.4), layout="constrained")
    axes = plain(canvas.subplots())
    ends = {}
    for (label, band), (colour, dashes) in zip(bands.items(), styles(), strict=False):
        _band(axes, band, colour, dashes, filled=len(bands) <= FEW)
        if len(band.steps):
            ends[label] = (float(band.middle[-1]), colour)
    baseline_lines(axes, baselines)
    axes.set(xlabel="training steps", ylabel=score, yscale=_scale(bands))
    label_ends(axes, ends)
    return canvas


def learning_grid(
    bands: Mapping[str, Band],
    baselines: Mapping[str, float],
    score: str,
    canvas: Canvas | None = None,
) -> Canvas:
    """A small plot for each label with its band; the middles of the others behind it, in grey.

    The arguments are those of :func:`learning_bands`.
    """
    columns = min(3, max(len(bands), 1))
    rows = max(-(-len(bands) // columns), 1)
    canvas = canvas or Figure(figsize=(4.4, 0.5 + 1.25 * rows), layout="constrained")
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax, (label, band), (colour, dashes) in zip(grid, bands.items(), styles(), strict=False):
        for other in bands.values():
            ax.plot(other.steps, other.middle, color=_CONTEXT, linewidth=0.7, zorder=1)
        for value in baselines.values():
            ax.axhline(value, color=BEFORE, linestyle="--", linewidth=0.7)
        _band(plain(ax), band, colour, dashes, filled=True)
        ax.set_title(label, fontsize=9, color=ink(colour), pad=2)
        ax.tick_params(labelsize=7)
        ax.locator_params(axis="x", nbins=3)
        ax.set_yscale(_scale(bands))
    for ax in grid[len(bands) :]:
        ax.set_visible(False)
    canvas.supxlabel("training steps", fontsize=9)
    canvas.supylabel(score, fontsize=9)
    return canvas


def _at_each_step(curves: Sequence[Curve]) -> tuple[np.ndarray, list[np.ndarray]]:
    """All steps, rising, and at each the values of the curves that have it."""
    values: dict[Any, list[float]] = {}
    for steps, scores in curves:
        for step, score in zip(steps, scores, strict=True):
            values.setdefault(step, []).append(score)
    rising = sorted(values)
    return np.array(rising), [np.array(values[step]) for step in rising]


def _scale(bands: Mapping[str, Band]) -> str:
    """Logarithmic where the scores span more than a decade and a half, as a solved task's do."""
    middles = np.concatenate([np.ones(0), *(band.middle for band in bands.values())])
    wide = len(middles) > 0 and middles.min() > 0 and middles.max() / middles.min() > 30
    return "log" if wide else "linear"


def _band(axes: Axes, band: Band, colour: str, dashes: Any, filled: bool) -> None:
    if filled:
        axes.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.2, linewidth=0)
    marker = "o" if len(band.steps) == 1 else None
    axes.plot(band.steps, band.middle, color=colour, linestyle=dashes, linewidth=1.6, marker=marker)
    for step, value in band.ends:
        axes.plot([step], [value], "x", color=colour, markersize=7, markeredgewidth=1.8)


def baseline_lines(axes: Axes, baselines: Mapping[str, float]) -> None:
    """Dashed horizontal lines with their names at the right."""
    axes.margins(y=0.08 if len(baselines) > 1 else 0.05)  # room for a name below the lowest
    lowest = min(baselines.values(), default=0)
    for label, value in baselines.items():
        below = len(baselines) > 1 and value == lowest  # so that two names of close lines differ
        axes.axhline(value, color=BEFORE, linestyle="--", linewidth=1)
        axes.annotate(
            label, (1, value), (-3, -3 if below else 3), color="#555555", fontsize=8, ha="right",
            va="top" if below else "bottom", xycoords=("axes fraction", "data"),
            textcoords="offset points",
        )  # fmt: skip
