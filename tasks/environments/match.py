"""Passive and Active Visual Match, vectorised (Section 3.4)."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from gatecore import _checks
from gatecore._namespace import Array
from gatecore.tasks.environments import maps
from gatecore.tasks.environments.base import Advance, ArrayEnvironment, distinct_draws
from gatecore.tasks.environments.maps import APPLE, CELLS, FLOOR, MARGIN, PADS, PLAYER, VIEW, WALL

EXPLORE, DISTRACTOR, REWARD = range(3)

APPLES = 10  # per episode
REGROWTH = 20  # frames from the eating of an apple to its return

# The constants of the first-person version; apples pay 5 there, or 1 in an easier variant.
FIRST_PERSON = dict(phases=(75, 450, 75), pads=4, wrong_reward=1.0, ends_at_choice=True)

_SYMBOLS = " #a+0123"  # by the contents of a cell


class Match(ArrayEnvironment):
    """See a colour, wait in a room with apples, then choose the pad of that colour.

    The levels of Hung et al. (*Optimizing agent behavior over long time scales by transporting
    value*, 2018), on the maps of their grid worlds. An episode has three phases. In the first the
    player is in a room with one coloured cell: next to it in ``passive``, anywhere in the walls in
    ``active``. The second is a room with 10 apples in 22 cells. In the third the first pad that the
    player steps on pays, ``right_reward`` if it has the colour of the first phase, and all pads
    vanish. The score is what the pad pays.

    Actions are north, south, west, east (0..3); walls, and the coloured cell of the first phase,
    stop the player. An observation is an image of the 5×5 cells around the player. Unlike the
    reference, we draw the pads' order and colours for each episode, not once, and an apple returns
    20 frames after it was eaten, one frame earlier. The passive level's map was not published; ours
    is a later reconstruction (Ni et al., 2023). The places of two or four pads are inferred.

    The state is in arrays: the player's cell ``position``, an index into ``board``, ``phase`` (0, 1
    or 2) and ``frame``, the number of actions taken in it, all int64 (size,); ``board``, uint8
    (size, CELLS), the contents of each cell, without the player, as numbered in
    :mod:`gatecore.tasks.environments.maps`; ``palette``, uint8 (size, PADS + pads, 3), their
    colours, the first of the pads' being that to match; and ``eaten``, uint8 (size, 20), by frame
    modulo 20 the cell of the apple eaten then, or 0. ValueError or TypeError names a bad argument.

    There are ``size`` episodes in parallel. ``phases`` are the frames of each phase, at least 1;
    the second may be 0. A wrong pad pays 1 in the first-person version. Of 2, 3 or 4 ``pads`` each
    has another colour, drawn for an episode from ``colours``: "primary" (red, green and blue),
    "palette" (sixteen others), or a sequence of (red, green, blue). By default it is "primary", as
    in the grid worlds, for up to three pads, and for four "palette", as in the first-person
    version. With ``ends_at_choice`` an episode ends when the player steps on a pad.

    >>> match = Match(1, "active")
    >>> print(match.text().replace(" ", "."))
    ..0######..
    ..#.....#..
    ..#.....#..
    ..##...##..
    ..#+....#..
    ..#.....#..
    ..#######..
    """

    actions = 4
    shape = (VIEW, VIEW, 3)
    dtype = np.uint8
    state_names: ClassVar = ("position", "phase", "frame", "board", "palette", "eaten")

    def __init__(self, size: int, level: Literal["passive", "active"] = "passive",
                 phases: tuple[int, int, int] = (15, 90, 15), apple_reward: float = 0.0,
                 pads: int = 3, wrong_reward: float = 0.0, right_reward: float = 10.0,
                 colours: str | Sequence[tuple[int, int, int]] | None = None,
                 ends_at_choice: bool = False) -> None:  # fmt: skip
        self.size = _checks.integer("size", size)
        self.level = _checks.choice("level", level, ("passive", "active"))
        lengths = enumerate(_checks.entries("phases", phases, length=3))
        self.phases = tuple(_checks.integer(f"phases[{k}]", frames, at_least=int(k != DISTRACTOR))
                            for k, frames in lengths)  # fmt: skip
        self.pads = pads = _checks.integer("pads", pads)
        if pads not in maps.REWARD:
            raise ValueError(f"pads must be one of {list(maps.REWARD)}, got {pads}")
        self.apple_reward = _checks.number("apple_reward", apple_reward)
        self.colours = maps.resolve(colours, pads)
        self.ends_at_choice = _checks.flag("ends_at_choice", ends_at_choice)
        self.horizon = sum(self.phases)
        self._lengths = np.array(self.phases)
        self._pays = np.full(pads, _checks.number("wrong_reward", wrong_reward), np.float32)
        self._pays[0] = _checks.number("right_reward", right_reward)
        first = {"passive": maps.PASSIVE, "active": maps.ACTIVE}[self.level]
        rows = first, maps.DISTRACTOR, maps.REWARD[pads]
        self._boards = [maps.board(r, walls) for r, walls in zip(rows, "p##", strict=True)]
        self._starts = [maps.cells(r, "+") for r in rows]
        self._places = [maps.cells(r, symbol) for r, symbol in zip(rows, "pap", strict=True)]
        self._offset = np.arange(self.size) * CELLS  # of each board in all boards' cells
        self.position, self.phase, self.frame = np.zeros((3, self.size), np.int64)
        self.board = np.zeros((self.size, CELLS), np.uint8)
        self.palette = np.zeros((self.size, PADS + pads, 3), np.uint8)
        self.palette[:, :PADS] = maps.FIXED
        self.eaten = np.zeros((self.size, REGROWTH), np.uint8)
        self.reset(0)

    def advance(self, actions: np.ndarray) -> Advance:
        actions = self._check_actions(actions)
        self.frame += 1
        here = self._walk(actions)
        score, chose = self._choose(here)
        reward = score + self._eat(here)
        over = self.frame == self._lengths[self.phase]
        ended = over & (self.phase == REWARD) | (self.ends_at_choice & chose)
        if over.any():
            self._next_phase(over & ~ended)
        return reward, ended, score

    def observe(self) -> np.ndarray:
        """The cells around each player, uint8 (size, 5, 5, 3)."""
        around = (self._offset + self.position)[:, None] + maps.WINDOW
        contents = self.board.ravel()[around]
        contents[:, VIEW * VIEW // 2] = PLAYER
        colours = self.palette.shape[1]
        rows = contents + np.arange(0, self.size * colours, colours)[:, None]
        return self.palette.reshape(-1, 3).take(rows, axis=0).reshape(self.size, *self.shape)

    def render(self, episode: int = 0, scale: int = 16) -> np.ndarray:
        """An episode's whole map, uint8 (7 · scale, 11 · scale, 3): ``scale`` pixels per cell."""
        image = self.palette[episode][self._map(episode)]
        return image.repeat(scale, axis=0).repeat(scale, axis=1)

    def text(self, episode: int = 0) -> str:
        """An episode's whole map as seven lines.

        ``#`` is a wall, ``a`` an apple, ``+`` the player, a digit a colour; 0 is that to match.
        """
        return "\n".join("".join(_SYMBOLS[cell] for cell in row) for row in self._map(episode))

    def renew(self, episodes: np.ndarray) -> None:
        """Replace episodes by new ones, with new colours, walls and start."""
        if not len(episodes):
            return
        colours = distinct_draws(self._rng, len(episodes), len(self.colours), self.pads)
        self.palette[episodes, PADS:] = self.colours[colours]
        self._start(episodes, EXPLORE)
        target = self._rng.choice(self._places[EXPLORE], len(episodes))
        self.board[episodes, target] = PADS

    def _map(self, episode: int) -> np.ndarray:
        """The contents of a map's cells, with the player: (HEIGHT, WIDTH)."""
        contents = self.board[episode].copy()
        contents[self.position[episode]] = PLAYER
        return contents.reshape(-1, maps.STRIDE)[MARGIN:-MARGIN, MARGIN:-MARGIN]

    def _walk(self, actions: np.ndarray) -> np.ndarray:
        """Move the players; return the contents of their cells."""
        ahead = self.position + maps.MOVES[actions]
        boards = self.board.ravel()
        contents = boards[self._offset + ahead]
        blocked = (contents == WALL) | ((contents >= PADS) & (self.phase == EXPLORE))
        self.position = np.where(blocked, self.position, ahead)
        return boards[self._offset + self.position]

    def _choose(self, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pads' rewards, and which players stand on one; their pads vanish."""
        reward, chose = np.zeros(self.size, np.float32), here >= PADS
        episodes = np.flatnonzero(chose)
        if len(episodes):
            reward[episodes] = self._pays[here[episodes] - PADS]
            self.board[episodes[:, None], self._places[REWARD]] = FLOOR
        return reward, chose

    def _eat(self, here: np.ndarray) -> np.ndarray:
        """The apples' rewards; apples eaten 20 frames ago return."""
        on_apple = here == APPLE
        episodes = np.flatnonzero(self.phase == DISTRACTOR)
        if len(episodes):
            eaten = np.where(on_apple, self.position, 0)[episodes]  # cell 0 is in the margin
            self.board[episodes, eaten] = FLOOR
            moment = self.frame[episodes] % REGROWTH
            back = self.eaten[episodes, moment]
            self.board[episodes, back] = np.where(back, APPLE, FLOOR)
            self.eaten[episodes, moment] = eaten
        return on_apple * np.float32(self.apple_reward)

    def _next_phase(self, over: np.ndarray) -> None:
        """Start the next phase of the episodes whose phase is over."""
        explored = over & (self.phase == EXPLORE) & (self.phases[DISTRACTOR] > 0)
        episodes = np.flatnonzero(explored)
        self._start(episodes, DISTRACTOR)
        apples = self._places[DISTRACTOR]
        chosen = distinct_draws(self._rng, len(episodes), len(apples), APPLES)
        self.board[episodes[:, None], apples[chosen]] = APPLE
        self.eaten[episodes] = 0
        episodes = np.flatnonzero(over & ~explored)
        self._start(episodes, REWARD)
        order = distinct_draws(self._rng, len(episodes), self.pads, self.pads)
        self.board[episodes[:, None], self._places[REWARD]] = PADS + order

    def _start(self, episodes: Array, phase: int) -> None:
        self.phase[episodes], self.frame[episodes] = phase, 0
        self.board[episodes] = self._boards[phase]
        self.position[episodes] = self._rng.choice(self._starts[phase], len(episodes))
