"""The look that all figures share: colours, dashes, bare axes, names at the ends of lines."""

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure, SubFigure

COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
BEFORE = "#8A8A8A"

_APART = 0.07  # of the axes' height, between two names

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
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]  # asked first: they settle the scales
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(ends.items(), key=lambda end: end[1][0])
    heights = [to_axes.transform((left, max(value, bottom)))[1] for _, (value, _) in placed]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + _APART)
    top = max(1.02, _APART * (len(heights) - 1))
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], top - _APART * (len(heights) - 1 - k))
    for (label, (_, colour)), height in zip(placed, heights, strict=True):
        axes.text(
            1.02, height, label.replace(" (", "\n("), color=ink(colour), va="center",
            fontsize=10 if len(label) < 12 else 7, transform=axes.transAxes,
        )  # fmt: skip


def ink(colour: str) -> tuple[float, float, float]:
    """The colour, darkened until text in it can be read on white (contrast 4.5, WCAG 2)."""
    shade = to_rgb(colour)
    while 1.05 / (_luminance(shade) + 0.05) < 4.5:
        red, green, blue = shade
        shade = (0.95 * red, 0.95 * green, 0.95 * blue)
    return shade


def _luminance(shade: tuple[float, float, float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
