"""The maps of Match as text, the cells of its boards, and shortest paths between them."""

from collections import deque
from collections.abc import Sequence

import numpy as np

ACTIVE = (
    "  ppppppp  ",
    "  p     p  ",
    "  p     p  ",
    "  pp   pp  ",
    "  p+++++p  ",
    "  p+++++p  ",
    "  ppppppp  ",
)
PASSIVE = (
    "           ",
    "           ",
    "    ppp    ",
    "    p+p    ",
    "    ppp    ",
    "           ",
    "           ",
)
DISTRACTOR = (
    "###########",
    "#a a a a a#",
    "# a a a a #",
    "#a a a a a#",
    "# a a a a #",
    "#a a + a a#",
    "###########",
)
_ROOM = (
    "#         #",
    "#         #",
    "####   ####",
    "   # + #   ",
    "   #####   ",
)
REWARD = {
    pads: ("###########", row, *_ROOM)
    for pads, row in {2: "#  p   p  #", 3: "# p  p  p #", 4: "# p p p p #"}.items()
}  # by the number of pads

FLOOR, WALL, APPLE, PLAYER, PADS = range(5)  # contents of a cell; PADS + k is the k-th colour

HEIGHT, WIDTH = 7, 11
VIEW = 5  # side of the square of cells that a player sees, in its middle
MARGIN = VIEW // 2  # of floor around the map, so that each view lies inside the board
STRIDE = WIDTH + 2 * MARGIN
CELLS = (HEIGHT + 2 * MARGIN) * STRIDE

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


def inner(boards: np.ndarray) -> np.ndarray:
    """Maps (..., HEIGHT, WIDTH) without the margin, of boards (..., CELLS)."""
    grid = boards.reshape(*boards.shape[:-1], -1, STRIDE)
    return grid[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def first_actions(free: np.ndarray, goal: int) -> np.ndarray:
    """The first action of a shortest path from each cell to ``goal``, int64 (CELLS,).

    It is 0 at the goal and where there is no path; ``free`` (CELLS,) are the cells of paths.
    """
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
