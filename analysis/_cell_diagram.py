"""Figure 1: diagram of the LSTM cell with a refine gate."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch

from gatecore.analysis._style import COLOURS

_BLACK, _RED, _BLUE = COLOURS[:3]
_LAYER, _OPERATION = "#F6E3C5", "#DCEBF5"

Point = tuple[float, float]


def refined_cell() -> Figure:
    """Figure 1: forget gate f and refine gate r form the effective gate g (equations 9-15).

    >>> refined_cell().get_size_inches().tolist()
    [8.0, 4.4]
    """
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(-0.2, 11.2), ylim=(-0.75, 5.5), aspect="equal")
    axes.axis("off")
    # the four projections of (x, h): f, r, u, o
    for x, name, function in (
        (1.2, "f", "σ"), (3.4, "r", "σ"), (6.6, "u", "tanh"), (8.6, "o", "σ"),
    ):  # fmt: skip
        colour = _RED if name == "r" else _BLACK
        _box(axes, x, 0.8, function, _LAYER, colour)
        _arrow(axes, (x, 0), (x, 0.5))
        axes.text(x + 0.14, 1.24, name, style="italic", color=colour)
    _line(axes, (0, 0), (8.6, 0))
    axes.text(-0.1, 0.12, "x, h", style="italic")
    # the effective gate: both ends of the band from f, mixed by r
    _line(axes, (1.2, 1.1), (1.2, 1.55))
    for x, text in ((0.5, "f²"), (2.0, "1 − (1 − f)²")):
        _arrow(axes, (1.2, 1.55), (x, 1.95))
        _box(axes, x, 2.25, text, _OPERATION, width=0.8 if x < 1 else 1.5)
        _arrow(axes, (x, 2.55), (2.4 if x < 1 else 2.8, 3.1))
    _box(axes, 2.7, 3.4, "mix", _OPERATION, _RED, width=0.9)
    _line(axes, (3.4, 1.1), (3.4, 3.4), _RED)
    _arrow(axes, (3.4, 3.4), (3.17, 3.4), _RED)
    _arrow(axes, (2.7, 3.7), (2.7, 4.42), _BLUE)
    axes.text(2.8, 3.95, "g", style="italic", color=_BLUE)
    # the state: c' = g c + (1 − g) u and h = o tanh c'
    _line(axes, (0, 4.7), (2.45, 4.7))
    for start, end in (
        ((2.95, 4.7), (6.35, 4.7)), ((6.6, 1.1), (6.6, 2.65)), ((6.6, 3.15), (6.6, 4.45)),
        ((6.85, 4.7), (10.8, 4.7)), ((8.6, 4.7), (8.6, 4.0)), ((8.6, 3.4), (8.6, 2.75)),
        ((8.6, 1.1), (8.6, 2.25)), ((8.85, 2.5), (10.8, 2.5)),
    ):  # fmt: skip
        _arrow(axes, start, end)
    _line(axes, (2.7, 4.15), (4.2, 4.15), _BLUE)
    _line(axes, (4.2, 4.15), (4.2, 2.9), _BLUE)
    _arrow(axes, (4.2, 2.9), (4.65, 2.9), _BLUE)
    _arrow(axes, (5.55, 2.9), (6.35, 2.9), _BLUE)
    _box(axes, 5.1, 2.9, "1 − g", _OPERATION, _BLUE, width=0.9)
    _box(axes, 8.6, 3.7, "tanh", _OPERATION)
    for x, y, sign in ((2.7, 4.7, "×"), (6.6, 2.9, "×"), (6.6, 4.7, "+"), (8.6, 2.5, "×")):
        axes.add_patch(Circle((x, y), 0.25, facecolor="white", edgecolor=_BLACK, zorder=3))
        axes.text(x, y, sign, ha="center", va="center_baseline", zorder=4)
    for x, y, name in ((0, 4.82, "c"), (10.6, 4.82, "c'"), (10.6, 2.62, "h'")):
        axes.text(x, y, name, style="italic")
    return figure


def _box(axes: Axes, x: float, y: float, text: str, fill: str, edge: str = _BLACK,
         width: float = 0.8) -> None:  # fmt: skip
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.27), width, 0.54, facecolor=fill,
                                  edgecolor=edge, boxstyle="round,pad=0.03", zorder=3))  # fmt: skip
    axes.text(x, y, text, ha="center", va="center", zorder=4)


def _line(axes: Axes, start: Point, end: Point, colour: str = _BLACK) -> None:
    axes.plot(*zip(start, end, strict=True), color=colour, linewidth=1.2, zorder=2)


def _arrow(axes: Axes, start: Point, end: Point, colour: str = _BLACK) -> None:
    axes.annotate("", end, start, zorder=2, arrowprops={
        "arrowstyle": "-|>", "color": colour, "lw": 1.2, "shrinkA": 0, "shrinkB": 0
    })  # fmt: skip
