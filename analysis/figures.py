"""Figures of the theory and of runs: functions of arrays that return a matplotlib ``Figure``.

Save or show the figure as usual. Colours are Okabe and Ito's, safe for colour-blind readers; line
styles and labels at the lines carry the same information in print. Matplotlib's global state is
neither read nor changed.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from gatecore import Gate, timescale
from gatecore.analysis._cell_diagram import refined_cell
from gatecore.analysis._learning_curves import (
    FEW,
    Band,
    learning_bands,
    learning_curves,
    learning_grid,
    quantile_band,
    trailing_band,
)
from gatecore.analysis._style import BEFORE, COLOURS, DASHES, Canvas, Curve, caption, plain, styles
from gatecore.analysis._theory_plots import (
    adjustment,
    effective_band,
    gradient_ratio,
    precision,
    refine_contours,
    timescale_densities,
    timescale_tails,
)

__all__ = [
    "BEFORE", "COLOURS", "DASHES", "FEW", "Band", "Canvas", "Curve", "Panel", "adjustment",
    "comparison", "effective_band", "gate_histograms", "gate_rows", "gradient_ratio",
    "learning_bands", "learning_curves", "learning_grid", "precision", "quantile_band",
    "refine_contours", "refined_cell", "theory", "timescale_densities", "timescale_rows",
    "timescale_tails", "trailing_band",
]  # fmt: skip

Gates = Mapping[str, tuple[Gate | None, Gate | None]]


class Panel(NamedTuple):
    """The curves and gates of one task in :func:`comparison`.

    ``curves``, ``baselines`` and ``score`` are as in :func:`learning_curves`; ``gates`` maps labels
    to (gates before, gates after training): the mean forget gate of each unit, arrays of any shape,
    or None if unknown.
    """

    title: str
    score: str
    curves: Mapping[str, Curve]
    baselines: Mapping[str, float]
    gates: Gates


def comparison(panels: Sequence[Panel]) -> Figure:
    """A row for each task: learning curves and gate histograms (as Figures 3 and 4).

    There is at least one panel, each with at least one entry in ``gates``.

    >>> curve, gate = (np.array([0, 10]), np.array([2.1, 0.8])), Gate(np.ones(8), np.zeros(8))
    >>> figure = comparison([Panel("Copy", "loss", {"UR": curve}, {}, {"UR": (gate, gate)})])
    >>> len(figure.axes)
    3
    """
    rows = max(len(panel.gates) for panel in panels)
    figure = Figure(figsize=(11, len(panels) * (1.4 + 0.95 * rows)), layout="constrained")
    strips: Any = figure.subfigures(len(panels), 1, squeeze=False, hspace=0.04)
    for panel, strip in zip(panels, strips[:, 0], strict=True):
        strip.suptitle(panel.title, x=0.01, ha="left", fontweight="bold")
        left, right = strip.subfigures(1, 2, width_ratios=(1, 1.15))
        learning_curves(panel.curves, panel.baselines, panel.score, canvas=left)
        gate_histograms(panel.gates, canvas=right)
    return figure


def theory() -> dict[str, Figure]:
    """All figures of the theory by name (Figures 1 and 2, Table 4, precision).

    >>> list(theory())[:2]
    ['figure1_refined_cell', 'figure2a_adjustment']
    """
    from gatecore.analysis import _theory_data  # the only figures that need SymPy and SciPy

    return _theory_data.theory()


def gate_histograms(gates: Gates, canvas: Canvas | None = None) -> Canvas:
    """Histograms of forget gates and timescales before and after training (Figures 4 and 9).

    ``gates`` has a row for each label, at least one: the mean forget gate of each unit (before,
    after), arrays of any shape, or None. Timescales are 1/(1 − g) in steps; infinite ones are in
    the last bin, NaN is left out. Vertical scales are independent. The default ``canvas`` is a new
    Figure.

    >>> gate = Gate(np.full(8, 0.9), np.full(8, 0.1))
    >>> figure = gate_histograms({"UR": (gate, gate), "U": (None, gate)})
    >>> [axes.get_xlabel() for axes in figure.axes[2:]]
    ['forget gate, mean', 'timescale 1/(1 − g), steps']
    """
    canvas = canvas or Figure(figsize=(6, 1 + len(gates)), layout="constrained")
    axes = canvas.subplots(len(gates), 2, sharex="col", squeeze=False)
    _gate_column(axes[:, 0], gates)
    _timescale_column(axes[:, 1], gates)
    for ax in axes[:, 1]:
        ax.set_ylabel("")  # the label is in the left column
    _legend(canvas, axes[0, 0])
    return canvas


def gate_rows(gates: Gates) -> Figure:
    """The left column of :func:`gate_histograms` alone, narrow enough for a phone.

    >>> gate = Gate(np.full(8, 0.9), np.full(8, 0.1))
    >>> len(gate_rows({"UR": (gate, gate), "U": (None, gate)}).axes)
    2
    """
    return _one_column(gates, _gate_column)


def timescale_rows(gates: Gates) -> Figure:
    """The right column of :func:`gate_histograms` alone.

    >>> gate = Gate(np.full(8, 0.9), np.full(8, 0.1))
    >>> timescale_rows({"UR": (gate, gate)}).axes[0].get_xscale()
    'log'
    """
    return _one_column(gates, _timescale_column)


def _one_column(gates: Gates, draw: Callable[[Any, Gates], None]) -> Figure:
    figure = Figure(figsize=(4.4, 0.9 + 0.45 * len(gates)), layout="constrained")
    axes = figure.subplots(len(gates), 1, sharex=True, squeeze=False)[:, 0]
    draw(axes, gates)
    _legend(figure, axes[0])
    return figure


def _legend(canvas: Any, axes: Any) -> None:
    """The legend of one of its axes, above all of them."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        style: Any = {"loc": "outside upper right", "ncols": 2, "frameon": False, "fontsize": 8}
        canvas.legend(handles, labels, **style)


def _gate_column(axes: Any, gates: Gates) -> None:
    _column(axes, gates, np.linspace(0, 1, 31), lambda gate: gate.value)
    axes[-1].set_xlabel("forget gate, mean")


def _timescale_column(axes: Any, gates: Gates) -> None:
    _column(axes, gates, _log_bins(gates), timescale)
    axes[0].set_xscale("log")
    axes[-1].set_xlabel("timescale 1/(1 − g), steps")


def _column(axes: Any, gates: Gates, edges: np.ndarray, quantity: Callable[[Gate], Any]) -> None:
    """A histogram for each label, with the label on its left."""
    before = {"label": "before", "histtype": "step", "color": BEFORE, "zorder": 3}
    for ax, (label, pair), (colour, _) in zip(axes, gates.items(), styles(), strict=False):
        after = {"label": "after training", "color": colour, "alpha": 0.75}
        for gate, style in zip(pair, (before, after), strict=True):
            if gate is not None:
                values = np.ravel(quantity(gate))
                values = np.clip(values[~np.isnan(values)], edges[0], edges[-1])
                ax.hist(values, list(edges), **style)
        plain(ax).set_yticks([])
        text, style = caption(label, colour)
        ax.set_ylabel(text, rotation=0, ha="right", **style)


def _log_bins(gates: Gates) -> np.ndarray:
    """Bin edges over the decades from 1 to the longest finite timescale, two to six of them."""
    steps = [np.ravel(timescale(gate)) for pair in gates.values() for gate in pair if gate]
    finite = np.concatenate([[100.0], *(values[np.isfinite(values)] for values in steps)])
    decades = min(int(np.ceil(np.log10(finite.max()))), 6)
    return np.logspace(0, decades, 12 * decades + 1)
