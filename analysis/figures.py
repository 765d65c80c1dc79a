"""Figures: functions of arrays that return a matplotlib ``Figure``; save or show it as you like.

Colours are Okabe and Ito's, told apart by colour-blind eyes; a line style and a label at the line
tell the same in print. No global state of matplotlib is read or changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gatecore import Gate, timescale
from gatecore.analysis._bands import (
    FEW,
    Band,
    baseline_lines,
    learning_bands,
    learning_grid,
    quantile_band,
    trailing_band,
)
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
    ink,
    label_ends,
    plain,
    styles,
)

__all__ = [
    "BEFORE", "COLOURS", "DASHES", "FEW", "Band", "Canvas", "Curve", "Panel", "adjustment",
    "comparison", "effective_band", "gate_histograms", "gate_rows", "gradient_ratio",
    "learning_bands", "learning_curves", "learning_grid", "precision", "quantile_band",
    "refine_contours", "refined_cell", "theory", "timescale_densities", "timescale_rows",
    "timescale_tails", "trailing_band",
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
    baseline_lines(axes, baselines)
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
    _gate_column(axes[:, 0], gates)
    _timescale_column(axes[:, 1], gates)
    for ax in axes[:, 1]:
        ax.set_ylabel("")  # the name stands once, on the left
    axes[0, 0].legend(loc="upper left", frameon=False, fontsize=8)
    return canvas


def gate_rows(gates: Mapping[str, tuple[Gate | None, Gate | None]]) -> Figure:
    """The left column of :func:`gate_histograms` alone, in a figure that a phone can show."""
    return _one_column(gates, _gate_column)


def timescale_rows(gates: Mapping[str, tuple[Gate | None, Gate | None]]) -> Figure:
    """The right column of :func:`gate_histograms` alone."""
    return _one_column(gates, _timescale_column)


def _one_column(
    gates: Mapping[str, tuple[Gate | None, Gate | None]],
    draw: Callable[[Any, Mapping[str, tuple[Gate | None, Gate | None]]], None],
) -> Figure:
    figure = Figure(figsize=(4.4, 0.9 + 0.45 * len(gates)), layout="constrained")
    axes = figure.subplots(len(gates), 1, sharex=True, squeeze=False)[:, 0]
    draw(axes, gates)
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False,
                      fontsize=8)  # fmt: skip
    return figure


def _gate_column(axes: Any, gates: Mapping[str, tuple[Gate | None, Gate | None]]) -> None:
    _column(axes, gates, np.linspace(0, 1, 31), lambda gate: gate.value)
    axes[-1].set_xlabel("forget gate, mean")


def _timescale_column(axes: Any, gates: Mapping[str, tuple[Gate | None, Gate | None]]) -> None:
    _column(axes, gates, _log_bins(gates), timescale)
    axes[0].set_xscale("log")
    axes[-1].set_xlabel("timescale 1/(1 − g), steps")


def _column(
    axes: Any,
    gates: Mapping[str, tuple[Gate | None, Gate | None]],
    edges: np.ndarray,
    quantity: Callable[[Gate], Any],
) -> None:
    """One row of histograms for each label, named on its left."""
    for ax, (label, pair), (colour, _) in zip(axes, gates.items(), styles(), strict=False):
        for gate, style in zip(pair, _before_and_after(colour), strict=True):
            if gate is not None:
                _histogram(ax, quantity(gate), edges, style)
        plain(ax).set_yticks([])
        ax.set_ylabel(
            label.replace(" (", "\n("), rotation=0, ha="right", va="center", color=ink(colour),
            fontsize=10 if len(label) < 12 else 7,
        )  # fmt: skip


def _before_and_after(colour: str) -> tuple[dict[str, Any], dict[str, Any]]:
    before = {"label": "before", "histtype": "step", "color": BEFORE, "zorder": 3}
    return before, {"label": "after training", "color": colour, "alpha": 0.75}


def _histogram(axes: Axes, values: Any, edges: np.ndarray, style: dict[str, Any]) -> None:
    known = np.ravel(values)[~np.isnan(np.ravel(values))]
    axes.hist(np.clip(known, edges[0], edges[-1]), list(edges), **style)


def _log_bins(gates: Mapping[str, tuple[Gate | None, Gate | None]]) -> np.ndarray:
    """Bin edges over the decades from 1 to the longest finite timescale: two to six of them."""
    found = [np.ravel(timescale(gate)) for pair in gates.values() for gate in pair if gate]
    finite = np.concatenate([[100.0], *(steps[np.isfinite(steps)] for steps in found)])
    decades = min(int(np.ceil(np.log10(finite.max()))), 6)
    return np.logspace(0, decades, 12 * decades + 1)
