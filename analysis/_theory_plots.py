"""Plots of the theory: Figure 2, Table 4, and the precision of gates near 1."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import gatecore
from gatecore import Gate
from gatecore.analysis._style import BEFORE, COLOURS, DASHES, Curve, plain

Floats = np.ndarray
_BLACK, _RED, _BLUE, _GREEN = COLOURS[:4]
_FILL = "#56B4E9"


def adjustment(forget: Floats) -> Figure:
    """Figure 2a: α(f) = f(1 − f), min(f, 1 − f) and f ± α(f), for forget gates (n,) in [0, 1].

    >>> [axes.get_ylabel() for axes in adjustment(np.linspace(0, 1, 101)).axes]
    ['adjustment range', 'effective gate g']
    """
    low, high = (gatecore.refine(forget, r + 0 * forget).value for r in (0.0, 1.0))
    figure, (left, right) = _axes(7.2, 3.2, 2)
    left.plot(forget, np.minimum(forget, 1 - forget), color=BEFORE, dashes=(4, 2))
    left.plot(forget, (high - low) / 2, color=_BLACK)
    left.text(0.5, 0.265, "α(f) = f(1 − f)", ha="center")
    left.text(0.5, 0.515, "min(f, 1 − f)", ha="center", color="#555555")
    left.set(xlabel="forget gate f", ylabel="adjustment range", ylim=(0, 0.56), xlim=(0, 1))
    _band(right, forget, low, high)
    right.plot(forget, forget, color=_BLACK)
    right.text(0.56, 0.5, "f", va="top")
    right.text(0.5, 0.82, "1 − (1 − f)²", ha="right", color=_BLUE)
    right.text(0.73, 0.44, "f²", ha="left", color=_RED)
    right.set(xlabel="forget gate f", ylabel="effective gate g", xlim=(0, 1), ylim=(0, 1))
    return figure


def effective_band(logit: Floats) -> Figure:
    """Figure 2b: σ(x) and the band of the refine gate, for forget logits x (n,).

    >>> [axes.get_yscale() for axes in effective_band(np.linspace(-6, 6, 101)).axes]
    ['linear', 'log']
    """
    forget = gatecore.sigmoid(logit)
    ends = [gatecore.refine(forget, Gate(r + 0 * logit, 1 - r + 0 * logit)) for r in (0.0, 1.0)]
    figure, (left, right) = _axes(7.2, 3.2, 2)
    _band(left, logit, *(end.value for end in ends))
    left.plot(logit, forget.value, color=_BLACK)
    left.set(xlabel="forget logit x", ylabel="effective gate g")
    _band(right, logit, *map(gatecore.timescale, ends))
    right.plot(logit, gatecore.timescale(forget), color=_BLACK)
    right.set(xlabel="forget logit x", ylabel="timescale 1/(1 − g), steps", yscale="log")
    left.text(-0.95, 0.62, "r = 1", ha="right", color=_BLUE)
    left.text(1.1, 0.42, "r = 0", color=_RED)
    left.text(2.2, 0.8, "σ(x)", va="top")
    right.text(2.4, 3e3, "r = 1: D²", ha="right", color=_BLUE)
    right.text(6, 4, "r = 0:\nD²/(2D − 1)", ha="right", va="center", color=_RED)
    return figure


def refine_contours(forget: Floats, refine: Floats) -> Figure:
    """Figure 2c: contours of the effective gate (equation 12) over forget and refine gate.

    They are arrays (n,) and (m,) in [0, 1], ascending.

    >>> unit = np.linspace(0, 1, 101)
    >>> refine_contours(unit, unit).axes[0].get_xlabel()
    'forget gate f'
    """
    g = gatecore.refine(forget[None, :], refine[:, None]).value
    levels = [0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99]
    figure = Figure(figsize=(4.4, 4), layout="constrained")
    axes = figure.subplots()
    axes.contourf(forget, refine, g, [0, *levels, 1], cmap="cividis", alpha=0.55)
    lines = axes.contour(forget, refine, g, levels, colors=_BLACK, linewidths=0.9)
    rows = [int(share * (len(refine) - 1)) for share in (0.06, 0.3, 0.4, 0.5, 0.6, 0.7, 0.94)]
    points = [(float(np.interp(level, g[row], forget)), float(refine[row]))
              for level, row in zip(levels, rows, strict=True)]  # fmt: skip
    axes.clabel(lines, fmt="%.2f", fontsize=8, manual=points)
    axes.plot([0.9], [1], "o", color=_RED, clip_on=False, zorder=5)
    axes.annotate("f = 0.9, g = 0.99", (0.9, 1), (0, 6), textcoords="offset points", ha="center",
                  fontsize=8, color=_RED)  # fmt: skip
    axes.set(xlabel="forget gate f", ylabel="refine gate r", aspect="equal")
    return figure


def gradient_ratio(g: Floats, lower: Floats, upper: Floats) -> Figure:
    """Figure 2d: exact bounds of ‖∇g‖ / (g(1 − g)) against the effective gate g (n,) in (0, 1).

    ``lower`` and ``upper`` (n,), in [1, 2], are those of :func:`gatecore.analysis.gradient_bounds`.

    >>> from gatecore.analysis import gradient_bounds
    >>> g = np.array([0.01, 0.5, 0.99])
    >>> gradient_ratio(g, *gradient_bounds(g)).axes[0].get_xscale()
    'logit'
    """
    figure, (axes,) = _axes(4.8, 3.4)
    axes.fill_between(g, lower, upper, color=_FILL, alpha=0.3, linewidth=0)
    axes.plot(g, upper, color=_BLUE)
    axes.plot(g, lower, color=_BLACK)
    axes.axhline(1, color=BEFORE, dashes=(4, 2), linewidth=1)
    axes.set_xscale("logit")
    ticks = ["0.0001", "0.01", "0.5", "0.99", "0.9999"]  # few enough for their labels to fit
    axes.set_xticks([float(tick) for tick in ticks], ticks)
    axes.minorticks_off()
    axes.set(xlabel="effective gate g", ylabel="gradient / that of a plain gate", ylim=(0.95, 2.05))
    axes.text(0.5, 1.93, "greatest:\n2/(1 + √min(g, 1 − g))", ha="center", va="top", color=_BLUE)
    axes.text(0.5, 1.05, "least", ha="center", va="center")
    return figure


def timescale_tails(*panels: Mapping[str, Curve]) -> Figure:
    """Table 4 as tails: the fraction of units whose timescale exceeds x.

    A panel for each mapping, at least one, of at most seven labels to pairs (steps, fraction
    beyond) of arrays (n,).

    >>> steps = np.array([1.0, 10.0, 100.0])
    >>> timescale_tails({"U": (steps, 1 / steps)}).axes[0].get_xlabel()
    'timescale x, steps'
    """
    settings = {"yscale": "log", "ylim": (1e-3, 1.1), "xlabel": "timescale x, steps"}
    return _panels(panels, "fraction of units beyond x", settings)


def timescale_densities(*panels: Mapping[str, Curve]) -> Figure:
    """Table 4 as densities of ln D: panels as in :func:`timescale_tails`, of (steps, density).

    A pair of arrays (1,) is a point mass, drawn as an arrow.

    >>> steps = np.array([1.0, 10.0, 100.0])
    >>> timescale_densities({"U": (steps, 1 / steps)}).axes[0].get_xlabel()
    'timescale D, steps'
    """
    settings = {"ylim": (0, 1.05), "xlabel": "timescale D, steps"}
    return _panels(panels, "density of ln D", settings, arrows=True)


def precision(steps: Floats, loss: Sequence[Floats], dtype: str) -> Figure:
    """Relative error of a refined timescale for three ways to form 1 − g (Appendix D.5).

    ``steps`` (n,), above 1, are timescales of the main gate; ``loss`` is a ``PrecisionLoss`` of
    :mod:`gatecore.analysis.saturation`, arrays (n,) in [0, ∞]: errors above 10 are drawn at 10.
    ``dtype`` is a name in the label of the vertical axis.

    >>> figure = precision(np.array([10.0, 1e6]), [np.array([1e-6, np.inf])] * 3, "float32")
    >>> figure.axes[0].lines[0].get_ydata().tolist()
    [1e-06, 10.0]
    """
    figure, (axes,) = _axes(5.4, 3.4)
    names = ("1 − (2rf + (1 − 2r)f²)", "1 − g, g accurate", "complement of refine(f, r)")
    floor = 1e-10
    for name, error, style in zip(names, loss, _lines(), strict=False):
        axes.plot(steps, np.clip(error, floor, 10), label=name, **style)
    axes.set(xscale="log", yscale="log", ylim=(floor, 100),
             xlabel="timescale of the main gate, steps",
             ylabel=f"relative error of the refined\ntimescale, gates in {dtype}")  # fmt: skip
    axes.text(steps[-1], 16, "infinite: the gate is 1", ha="right", fontsize=8)
    _legend_above(axes, 1)
    return figure


# ---- drawing ---------------------------------------------------------------------------------


def _axes(width: float, height: float, columns: int = 1, **settings: Any) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, [plain(ax) for ax in figure.subplots(1, columns, squeeze=False, **settings)[0]]


def _panels(panels: Sequence[Any], ylabel: str, settings: Any, arrows: bool = False) -> Figure:
    """Curves over timescales; with ``arrows`` one of a single point is an arrow."""
    figure, axes = _axes(4.2 * len(panels), 3.6, len(panels), sharey=True)
    for ax, curves in zip(axes, panels, strict=True):
        for (label, (steps, values)), style in zip(curves.items(), _lines(), strict=False):
            if arrows and len(steps) == 1:
                arrow = {"arrowstyle": "->", "color": style["color"], "lw": 1.4}
                ax.annotate("", (steps[0], 1.02), (steps[0], 0), arrowprops=arrow)
                label, steps, values = f"{label}: all units at {steps[0]:.1f}", [], []
            ax.plot(steps, values, label=label, **style)
        ax.set(xscale="log", xlim=(1, 1e4), **settings)
        _legend_above(ax)
    axes[0].set_ylabel(ylabel)
    return figure


def _lines() -> list[dict[str, Any]]:
    """Styles of up to seven lines; each is thinner, so that equal curves are both visible."""
    return [{"color": colour, "linestyle": DASHES[k % len(DASHES)], "linewidth": 2.4 - 0.2 * k}
            for k, colour in enumerate(COLOURS)]  # fmt: skip


def _legend_above(axes: Axes, columns: int = 2) -> None:
    axes.legend(frameon=False, fontsize=8, ncols=columns, loc="lower center",
                bbox_to_anchor=(0.5, 1.0))  # fmt: skip


def _band(axes: Axes, x: Floats, low: Floats, high: Floats) -> None:
    axes.fill_between(x, low, high, color=_FILL, alpha=0.3, linewidth=0)
    axes.plot(x, high, color=_BLUE, dashes=(5, 1.5))
    axes.plot(x, low, color=_RED, dashes=(1.5, 1.2))
