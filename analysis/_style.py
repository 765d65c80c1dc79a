"""The look that all figures share: colours, dashes, bare axes, names at the ends of lines."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
BEFORE = "#8A8A8A"

Curve = tuple[np.ndarray, np.ndarray]
Canvas = Figure | SubFigure


def styles() -> Iterator[tuple[str, Any]]:
    """Colour and line style of each label, in order: no two of 28 alike."""
    return zip(itertools.cycle(COLOURS), itertools.cycle(DASHES), strict=False)


def plain(axes: Axes) -> Axes:
    """The axes without a frame on their top and right."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Name each line right of its end, names pushed apart where ends are close."""
    low, high = axes.get_ylim()
    lowest = -1.0
    for label, (value, colour) in sorted(ends.items(), key=lambda end: end[1][0]):
        lowest = max((value - low) / (high - low), lowest + 0.07)
        axes.text(1.02, lowest, label, color=colour, va="center", transform=axes.transAxes)
