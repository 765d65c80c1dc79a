"""The maps of Match as text, the cells of its boards, shortest paths, and the colours."""

from collections import deque
from collections.abc import Sequence

import numpy as np

from gatecore import _checks

ACTIVE = ("  ppppppp  ", "  p     p  ", "  p     p  ", "  pp   pp  ", "  p+++++p  ", "  p+++++p  ",
          "  ppppppp  ")  # fmt: skip
PASSIVE = ("           ", "           ", "    ppp    ", "    p+p    ", "    ppp    ", "           ",
           "           ")  # fmt: skip
DISTRACTOR = (
    "###########",
    "#a a a a a#",
    "# a a a a #",
    "#a a a a a#",
    "# a a a a #",
    "#a a + a a#",
    "###########",
)
_ROOM = ("#         #", "#         #", "####   ####", "   # + #   ", "   #####   ")
_PADS = {2: "#  p   p  #", 3: "# p  p  p #", 4: "# p p p p #"}  # by their number
REWARD = {pads: ("###########", row, *_ROOM) for pads, row in _PADS.items()}

FLOOR, WALL, APPLE, PLAYER, PADS = range(5)  # contents of a cell; PADS + k is the k-th colour

HEIGHT, WIDTH = 7, 11
VIEW = 5  # side of the square of cells that a player sees, in its middle
MARGIN = VIEW // 2  # of floor around the map, so that each view lies inside the board
STRIDE = WIDTH + 2 * MARGIN
CELLS = (HEIGHT + 2 * MARGIN) * STRIDE

# the colours of floor, wall, apple, player, and those that pads' are drawn from
FIXED = np.array([(204, 204, 204), (25, 25, 25), (140, 178, 0), (229, 149, 110)], np.uint8)
NAMED = {
    "primary": [(255, 0, 0), (0, 255, 0), (0, 0, 255)],
    "palette": [
        (0, 0, 0), (0, 0, 170), (0, 170, 0), (0, 170, 170), (170, 0, 0), (170, 0, 170),
        (170, 85, 0), (170, 170, 170), (85, 85, 85), (85, 85, 255), (85, 255, 85),
        (85, 255, 255), (255, 85, 85), (255, 85, 255), (255, 255, 85), (255, 255, 255),
    ]}  # fmt: skip

MOVES = np.array([-STRIDE, STRIDE, -1, 1])  # north, south, west, east
_STEPS = np.arange(-MARGIN, MARGIN + 1)
WINDOW = (_STEPS[:, None] * STRIDE + _STEPS).ravel()  # from the player to the cells it sees


def cells(rows: Sequence[str], symbol: str) -> np.ndarray:
    """The cells of a map that have a symbol, row by row, as indices into its board."""
    return np.flatnonzero(_bordered(rows) == symbol)


def board(rows: Sequence[str], walls: str = "#") -> np.ndarray:
    """A map with its margin, uint8 (CELLS,): WALL where the symbol is in ``walls``, else FLOOR."""
    return np.where(np.isin(_bordered(rows), list(walls)), WALL, FLOOR).astype(np.uint8)


def _bordered(rows: Sequence[str]) -> np.ndarray:
    """The symbols of a map with its margin, (CELLS,)."""
    return np.pad(np.array([list(row) for row in rows]), MARGIN, constant_values=" ").ravel()


def first_actions(free: np.ndarray, goal: int) -> np.ndarray:
    """First actions, or 0, of shortest paths over ``free`` cells to ``goal``: int64 (CELLS,)."""
    actions, reached, queue = np.zeros(CELLS, int), {goal}, deque([goal])
    while queue:
        cell = queue.popleft()
        for action, move in enumerate(MOVES.tolist()):
            previous = cell - move
            if free[previous] and previous not in reached:
                reached.add(previous)
                queue.append(previous)
                actions[previous] = action
    return actions


def resolve(colours: str | Sequence[tuple[int, int, int]] | None, pads: int) -> np.ndarray:
    """The colours that ``pads`` pads are drawn from, uint8 (colours, 3); see :class:`Match`."""
    if colours is None:
        colours = "primary" if pads <= len(NAMED["primary"]) else "palette"
    if isinstance(colours, str):
        colours = NAMED[_checks.choice("colours", colours, NAMED)]
    try:
        array = np.array(colours)
    except ValueError:  # of several lengths
        array = np.empty(0)
    integers = array.ndim == 2 and array.shape[1] == 3 and array.dtype.kind in "iu"
    if not integers or array.min() < 0 or array.max() > 255:
        raise ValueError(f"colours must be triples of integers 0..255, got {_checks.show(colours)}")
    if len(array) < pads:
        raise ValueError(f"colours must be at least {pads}, one for each pad, got {len(array)}; "
                         "add some, or use fewer pads")  # fmt: skip
    if len(np.unique(np.concatenate([array, FIXED]), axis=0)) < len(array) + len(FIXED):
        raise ValueError(f"colours must differ from each other and from {FIXED.tolist()}, which "
                         f"are floor, wall, apple and player: {_checks.show(colours)}")  # fmt: skip
    return array.astype(np.uint8)
