"""The maps of Match, drawn with characters: what a cell holds, where it is, and the way to it."""

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

FLOOR, WALL, APPLE, PLAYER, PADS = range(5)  # what a cell shows; PADS + k is the k-th colour

HEIGHT, WIDTH = 7, 11
VIEW = 5  # cells that the player sees each way, itself in the middle
MARGIN = VIEW // 2  # of floor around the map, so that each view lies within
STRIDE = WIDTH + 2 * MARGIN
CELLS = (HEIGHT + 2 * MARGIN) * STRIDE

MOVES = np.array([-STRIDE, STRIDE, -1, 1])  # north, south, west, east
_STEPS = np.arange(-MARGIN, MARGIN + 1)
WINDOW = (_STEPS[:, None] * STRIDE + _STEPS).ravel()  # from the player to what it sees


def cells(rows: Sequence[str], symbol: str) -> np.ndarray:
    """Where a map has a symbol: indices of cells, row by row, in the map with its margin."""
    found = [(i, j) for i, row in enumerate(rows) for j, at in enumerate(row) if at == symbol]
    return np.array([(i + MARGIN) * STRIDE + j + MARGIN for i, j in found])


def board(rows: Sequence[str], walls: str = "#") -> np.ndarray:
    """A map with its margin, uint8 (CELLS,): walls where a symbol is one of ``walls``, or floor."""
    drawn = np.full(CELLS, FLOOR, np.uint8)
    for symbol in walls:
        drawn[cells(rows, symbol)] = WALL
    return drawn


def inner(boards: np.ndarray) -> np.ndarray:
    """Maps (..., HEIGHT, WIDTH) without the margin, of boards (..., CELLS)."""
    grid = boards.reshape(*boards.shape[:-1], -1, STRIDE)
    return grid[..., MARGIN:-MARGIN, MARGIN:-MARGIN]


def way(free: np.ndarray, goal: int) -> np.ndarray:
    """The first action of a shortest way from each cell to a goal, int64 (CELLS,).

    It is 0 where there is no way, and at the goal.

    Parameters
    ----------
    free : bool array (CELLS,)
        Where one can go.
    goal : int
        A cell.
    """
    actions, seen, queue = np.zeros(CELLS, int), {goal}, deque([goal])
    while queue:
        there = queue.popleft()
        for action, move in enumerate(MOVES.tolist()):
            here = there - move
            if free[here] and here not in seen:
                seen.add(here)
                queue.append(here)
                actions[here] = action
    return actions
