"""Figures: functions of arrays that return a matplotlib ``Figure``; save or show it as you like.

Colours are Okabe and Ito's, told apart by colour-blind eyes; a line style and a label at the line
tell the same in print. No global state of matplotlib is read or changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatecore import Gate, timescale
from gatecore.analysis._cell_diagram import refined_cell
from gatecore.analysis._plates import (
    adjustment,
    effective_band,
    gradient_ratio,
    precision,
    refine_contours,
    timescale_densities,
    timescale_tails,
)
from gatecore.analysis._style import (
    BEFORE,
    COLOURS,
    DASHES,
    Canvas,
    Curve,
    label_ends,
    plain,
    styles,
)

__all__ = [
    "BEFORE", "COLOURS", "DASHES", "Canvas", "Curve", "Panel", "adjustment", "comparison",
    "effective_band", "gate_histograms", "gradient_ratio", "learning_curves", "precision",
    "refine_contours", "refined_cell", "theory", "timescale_densities", "timescale_tails",
]  # fmt: skip


class Panel(NamedTuple):
    """What to show of one task.

    Parameters
    ----------
    title, score : str
        ``score`` labels the curves' vertical axis.
    curves : label -> (steps, values)
    baselines : label -> value
        Drawn as dashed horizontal lines.
    gates : label -> (gates before, gates after training)
        Of each unit, arrays of any shape; None where they are not known.
    """

    title: str
    score: str
    curves: Mapping[str, Curve]
    baselines: Mapping[str, float]
    gates: Mapping[str, tuple[Gate | None, Gate | None]]


def comparison(panels: Sequence[Panel]) -> Figure:
    """A row for each task: learning curves, then histograms of the units' gates."""
    rows = max(len(panel.gates) for panel in panels)
    figure = Figure(figsize=(11, len(panels) * (1.4 + 0.95 * rows)), layout="constrained")
    bands: Any = figure.subfigures(len(panels), 1, squeeze=False, hspace=0.04)
    for panel, band in zip(panels, bands[:, 0], strict=True):
        band.suptitle(panel.title, x=0.01, ha="left", fontweight="bold")
        left, right = band.subfigures(1, 2, width_ratios=(1, 1.15))
        learning_curves(panel.curves, panel.baselines, panel.score, canvas=left)
        gate_histograms(panel.gates, canvas=right)
    return figure


def theory() -> dict[str, Figure]:
    """All figures of the theory by name, each made of arrays that the library computes."""
    from gatecore.analysis import _theory  # the only figures that need SymPy and SciPy

    return _theory.theory()


def learning_curves(
    curves: Mapping[str, Curve],
    baselines: Mapping[str, float],
    score: str,
    canvas: Canvas | None = None,
) -> Canvas:
    """Scores against training steps, each line labelled at its end, the baselines dashed.

    Parameters
    ----------
    curves : label -> (steps, values)
    baselines : label -> value
    score : str
        Label of the vertical axis.
    canvas : Figure or SubFigure, optional
        Where to draw; default a new Figure.
    """
    canvas = canvas or Figure(figsize=(6, 4), layout="constrained")
    axes = plain(canvas.subplots())
    ends = {}
    for (label, (steps, values)), (colour, dashes) in zip(curves.items(), styles(), strict=False):
        axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.6)
        if len(steps):
            ends[label] = (values[-1], colour)
    for label, value in baselines.items():
        axes.axhline(value, color=BEFORE, linestyle="--", linewidth=1)
        axes.annotate(
            label, (1, value), (-3, 3), color="#555555", fontsize=8, ha="right",
            xycoords=("axes fraction", "data"), textcoords="offset points",
        )  # fmt: skip
    axes.set(xlabel="training steps", ylabel=score)
    label_ends(axes, ends)
    return canvas


def gate_histograms(
    gates: Mapping[str, tuple[Gate | None, Gate | None]], canvas: Canvas | None = None
) -> Canvas:
    """For each label a row: histograms of forget gates and of timescales, before and after.

    Parameters
    ----------
    gates : label -> (before, after)
        The mean forget gate of each unit; timescales are 1/(1 − g) in steps. Infinite ones are
        counted in the last bin. Vertical scales are independent.
    canvas : Figure or SubFigure, optional
        Where to draw; default a new Figure.
    """
    canvas = canvas or Figure(figsize=(6, 1 + len(gates)), layout="constrained")
    axes = canvas.subplots(len(gates), 2, sharex="col", squeeze=False)
    edges = np.linspace(0, 1, 31), _log_bins(gates)
    for row, (label, pair), (colour, _) in zip(axes, gates.items(), styles(), strict=False):
        for gate, style in zip(pair, _before_and_after(colour), strict=True):
            if gate is not None:
                _histogram(row[0], gate.value, edges[0], style)
                _histogram(row[1], timescale(gate), edges[1], style)
        row[0].set_ylabel(label, rotation=0, ha="right", va="center", color=colour)
    for ax in axes.flat:
        plain(ax).set_yticks([])
    axes[0, 1].set_xscale("log")
    axes[-1, 0].set_xlabel("forget gate, mean over time and batch")
    axes[-1, 1].set_xlabel("timescale 1/(1 − g), steps")
    axes[0, 0].legend(loc="upper left", frameon=False, fontsize=8)
    return canvas


def _before_and_after(colour: str) -> tuple[dict[str, Any], dict[str, Any]]:
    before = {"label": "before", "histtype": "step", "color": BEFORE, "zorder": 3}
    return before, {"label": "after training", "color": colour, "alpha": 0.75}


def _histogram(axes: Axes, values: Any, edges: np.ndarray, style: dict[str, Any]) -> None:
    axes.hist(np.clip(np.ravel(values), edges[0], edges[-1]), list(edges), **style)


def _log_bins(gates: Mapping[str, tuple[Gate | None, Gate | None]]) -> np.ndarray:
    """Bin edges over the decades from 1 to the longest finite timescale; at least two."""
    found = [np.ravel(timescale(gate)) for pair in gates.values() for gate in pair if gate]
    finite = np.concatenate([[100.0], *(steps[np.isfinite(steps)] for steps in found)])
    decades = int(np.ceil(np.log10(finite.max())))
    return np.logspace(0, decades, 12 * decades + 1)
