"""Shared style of the figures: colours, dashes, plain axes, labels at the ends of lines."""

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

_APART = 0.07  # distance of two labels, as a fraction of the axes' height

Curve = tuple[np.ndarray, np.ndarray]
Canvas = Figure | SubFigure


def styles() -> Iterator[tuple[str, Any]]:
    """Colour and line style of each label, in order; the first 28 pairs differ."""
    return zip(itertools.cycle(COLOURS), itertools.cycle(DASHES), strict=False)


def plain(axes: Axes) -> Axes:
    """The axes without a frame on their top and right."""
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Label each line right of its end; labels of close ends are moved apart."""
    left, bottom = axes.get_xlim()[0], axes.get_ylim()[0]  # also updates the scales
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(ends.items(), key=lambda end: end[1][0])
    heights = [to_axes.transform((left, max(value, bottom)))[1] for _, (value, _) in placed]
    for k in range(1, len(heights)):
        heights[k] = max(heights[k], heights[k - 1] + _APART)
    top = max(1.02, _APART * (len(heights) - 1))
    for k in reversed(range(len(heights))):
        heights[k] = min(heights[k], top - _APART * (len(heights) - 1 - k))
    for (label, (_, colour)), height in zip(placed, heights, strict=True):
        text, style = caption(label, colour)
        axes.text(1.02, height, text, transform=axes.transAxes, **style)


def caption(label: str, colour: str) -> tuple[str, dict[str, Any]]:
    """A label with its parenthesis on a second line, and the style of the text."""
    size = 10 if len(label) < 12 else 7
    return label.replace(" (", "\n("), {"color": ink(colour), "va": "center", "fontsize": size}


def ink(colour: str) -> tuple[float, float, float]:
    """The colour, darkened until text in it is legible on white (contrast 4.5, WCAG 2)."""
    shade = to_rgb(colour)
    while 1.05 / (_luminance(shade) + 0.05) < 4.5:
        red, green, blue = shade
        shade = (0.95 * red, 0.95 * green, 0.95 * blue)
    return shade


def _luminance(shade: tuple[float, float, float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shade]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))
