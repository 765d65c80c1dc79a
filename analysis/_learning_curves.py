"""Learning curves: single runs, and the median and spread of several seeds."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatecore.analysis._style import BEFORE, Canvas, Curve, ink, label_ends, plain, styles

FEW = 4  # bands that can be distinguished in one plot
_CONTEXT = "#C8C8C8"
Baselines = Mapping[str, float]


class Band(NamedTuple):
    """A curve with its spread, of any score.

    ``steps``, ``middle``, ``low`` and ``high`` are arrays (n,): the training steps, ascending, and
    the score with its limits there. ``ends`` are the last points (step, score) of the seeds that
    diverged and stopped early.
    """

    steps: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ends: tuple[tuple[float, float], ...] = ()


def quantile_band(curves: Sequence[Curve], low: float, high: float) -> Band:
    """Median and two percentiles of several seeds' curves, pairs (steps, values) of arrays (n,).

    The statistics at a step are over the curves that contain it, so a seed that stopped early
    counts up to its last step. ValueError if ``low`` or ``high`` is not in [0, 100].

    >>> seeds = [(np.array([0, 10]), np.array([1.0, 2.0])), (np.array([0]), np.array([3.0]))]
    >>> band = quantile_band(seeds, 25, 75)
    >>> band.steps.tolist(), band.middle.tolist(), band.low.tolist(), band.high.tolist()
    ([0, 10], [2.0, 2.0], [1.5, 2.0], [2.5, 2.0])
    """
    where, values, steps = _joined(curves)
    statistics = [np.percentile(values[where == step], [50, low, high]) for step in steps]
    return Band(steps, *(np.array(statistics).T if statistics else np.empty((3, 0))))


def trailing_band(curves: Sequence[Curve], window: float, z: float = 1.96) -> Band:
    """Trailing mean with the normal confidence interval of the mean, 95 % by default.

    The statistics at a step are over all values of all ``curves``, pairs (steps, values) of arrays
    (n,), in the last ``window`` steps. The interval has a half width of ``z`` standard errors, and
    zero width where there is one value. ``window`` and ``z`` are positive.

    >>> band = trailing_band([(np.array([0, 10, 20]), np.array([1.0, 2.0, 3.0]))], window=20)
    >>> band.middle.tolist(), band.low.round(2).tolist()
    ([1.0, 1.5, 2.5], [1.0, 0.52, 1.52])
    """
    where, values, steps = _joined(curves)
    inside = [values[(where <= s) & (where > s - max(window, 1e-9))] for s in steps]
    middle = np.array([part.mean() for part in inside])
    deviation = np.array([part.std(ddof=1) if len(part) > 1 else 0.0 for part in inside])
    half = z * deviation / np.sqrt([len(part) for part in inside])
    return Band(steps, middle, middle - half, middle + half)


def learning_curves(curves: Mapping[str, Curve], baselines: Baselines, score: str,
                    canvas: Canvas | None = None) -> Canvas:  # fmt: skip
    """Scores against training steps (Figure 3), each line labelled at its end.

    ``curves`` maps labels to pairs (steps, values) of arrays (n,), ``baselines`` to the values of
    dashed lines; ``score`` labels the vertical axis. The default ``canvas`` is a new Figure.

    >>> figure = learning_curves({"UR": (np.array([0, 10]), np.array([2.1, 0.8]))}, {}, "loss")
    >>> figure.axes[0].get_ylabel()
    'loss'
    """
    canvas = canvas or Figure(figsize=(6, 4), layout="constrained")
    bands = {k: Band(steps, values, values, values) for k, (steps, values) in curves.items()}
    return _one_plot(canvas, bands, baselines, score, filled=False, scale="linear")


def learning_bands(bands: Mapping[str, Band], baselines: Baselines, score: str,
                   canvas: Canvas | None = None) -> Canvas:  # fmt: skip
    """Scores of several seeds against training steps, all labels in one plot.

    The spread is drawn for at most four labels. A cross marks where a seed stopped early. The scale
    is logarithmic if the scores span a factor above 30. ``bands`` maps labels to bands; the other
    parameters are those of :func:`learning_curves`.

    >>> band = quantile_band([(np.array([0, 10]), np.array([2.1, 0.01]))], 25, 75)
    >>> learning_bands({"UR": band}, {}, "loss").axes[0].get_yscale()
    'log'
    """
    canvas = canvas or Figure(figsize=(4.4, 3.4), layout="constrained")
    return _one_plot(canvas, bands, baselines, score, len(bands) <= FEW, _scale(bands))


def learning_grid(bands: Mapping[str, Band], baselines: Baselines, score: str,
                  canvas: Canvas | None = None) -> Canvas:  # fmt: skip
    """A small plot for each label: its band, and the other labels' medians in grey.

    Parameters are those of :func:`learning_bands`.

    >>> band = quantile_band([(np.array([0, 10]), np.array([2.1, 0.8]))], 25, 75)
    >>> figure = learning_grid({"U": band, "UR": band}, {}, "loss")
    >>> [axes.get_title() for axes in figure.axes]
    ['U', 'UR']
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


def _joined(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps and values of all curves, and the distinct steps in ascending order."""
    where = np.concatenate([np.empty(0, int), *(steps for steps, _ in curves)])
    return where, np.concatenate([np.empty(0), *(values for _, values in curves)]), np.unique(where)


def _scale(bands: Mapping[str, Band]) -> str:
    """Logarithmic if the medians span more than a decade and a half, as for a solved task."""
    middles = np.concatenate([np.ones(0), *(band.middle for band in bands.values())])
    wide = len(middles) > 0 and middles.min() > 0 and middles.max() / middles.min() > 30
    return "log" if wide else "linear"


def _one_plot(
    canvas: Canvas, bands: Mapping[str, Band], baselines: Baselines, score: str, filled: bool,
    scale: str,
) -> Canvas:  # fmt: skip
    axes = plain(canvas.subplots())
    ends = {}
    styled = zip(bands.items(), styles(), strict=False)
    for k, ((label, band), (colour, dashes)) in enumerate(styled):
        _band(axes, band, colour, dashes, filled, gid=f"curve-{k}")
        if len(band.steps):
            ends[label] = (float(band.middle[-1]), colour)
    _baseline_lines(axes, baselines)
    axes.set(xlabel="training steps", ylabel=score, yscale=scale)
    label_ends(axes, ends)
    return canvas


def _band(
    axes: Axes, band: Band, colour: str, dashes: Any, filled: bool, gid: str | None = None
) -> None:
    """Draw a curve; ``gid`` is the identifier of its line in an SVG, with "-band" of the spread."""
    if filled:
        axes.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.2, linewidth=0,
                          gid=gid and f"{gid}-band")  # fmt: skip
    marker = "o" if len(band.steps) == 1 else None
    axes.plot(band.steps, band.middle, color=colour, linestyle=dashes, linewidth=1.6, marker=marker,
              gid=gid)  # fmt: skip
    for step, value in band.ends:
        axes.plot([step], [value], "x", color=colour, markersize=7, markeredgewidth=1.8)


def _baseline_lines(axes: Axes, baselines: Baselines) -> None:
    """Dashed horizontal lines, labelled on the right."""
    axes.margins(y=0.08 if len(baselines) > 1 else 0.05)  # room for a label below the lowest line
    lowest = min(baselines.values(), default=0)
    for label, value in baselines.items():
        below = len(baselines) > 1 and value == lowest  # keeps the labels of close lines apart
        axes.axhline(value, color=BEFORE, linestyle="--", linewidth=1)
        axes.annotate(label, (1, value), (-3, -3 if below else 3), color="#555555", fontsize=8,
                      ha="right", va="top" if below else "bottom",
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
