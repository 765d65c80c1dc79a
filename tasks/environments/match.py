"""Passive and Active Visual Match, a batch of games at once."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from gatecore import _checks
from gatecore.contracts.environment import Turn
from gatecore.tasks.environments import colours as palettes
from gatecore.tasks.environments import maps
from gatecore.tasks.environments.base import SavedWorld, drawn
from gatecore.tasks.environments.maps import APPLE, CELLS, FLOOR, PADS, PLAYER, VIEW, WALL

EXPLORE, DISTRACTOR, REWARD = range(3)

APPLES = 10  # of the places for them
REGROWTH = 20  # frames after an apple was eaten, it is back

# The constants of the first-person version; apples pay 5 in all of it, 1 in an easier one.
FIRST_PERSON = dict(phases=(75, 450, 75), pads=4, wrong_reward=1.0, ends_at_choice=True)

_SYMBOLS = " #a+0123"  # by what a cell shows


class Match(SavedWorld):
    """See a colour, wait in a room with apples, then choose the pad of that colour.

    The levels are those of Hung et al. (*Optimizing agent behavior over long time scales by
    transporting value*, 2018), on the maps of their grid worlds. A game has three phases. In the
    first the player is in a room with one coloured cell: in ``passive`` beside it, in ``active``
    at any cell of the ring around the rooms, most of which the player does not see. In the second
    it is in another room, where 10 of 22 places, drawn anew in each game, have an apple; an apple
    that was eaten is back after 20 frames. In the third it is before pads of all colours: the first
    that it steps on pays, ``right_reward`` if it has the colour of the first phase, and all vanish.
    The score of a game is what the pad paid.

    The actions are to step north, south, west, east (0..3); a wall, or the coloured cell of the
    first phase, leaves the player where it is. What is seen is a picture of the 5×5 cells around
    the player.

    From the reference's source: a phase of n frames takes n actions, and what is seen after the
    last is the first sight of the next phase; beyond a map's edge everything looks like floor; a
    player who stands where an apple comes back eats it with the next action if that runs into a
    wall; a game goes on after the choice to the end of its time, but in the first-person version it
    ends there (``ends_at_choice``). Otherwise than in that source, the pads' places and colours are
    drawn in every game, not once for all, and an apple is back one frame earlier. The passive
    level's map was not published: that the player stands walled in by the eight cells around it,
    one of them coloured, is a later reconstruction's (Ni et al., 2023). We infer where two or four
    pads lie.

    Parameters
    ----------
    size : int
        Games side by side.
    level : {"passive", "active"}
    phases : (int, int, int)
        Frames of each; the second may be 0.
    apple_reward, wrong_reward, right_reward : float
        Of an apple, a wrong pad, the right pad. In the first-person version a wrong pad pays 1.
    pads : int
        2, 3 or 4, each with a colour of its own.
    colours : {"primary", "palette"} or sequence of (red, green, blue), optional
        What the colours of a game are drawn from: red, green and blue, or sixteen others, or these.
        By default ``"primary"``, as in the grid worlds, for up to three pads, and for four
        ``"palette"``, as in the first-person version.
    ends_at_choice : bool
        Whether a game ends when the player steps on a pad, not only when its time is over.

    Attributes
    ----------
    position : int64 array (size,)
        The player's cell: an index into ``board``.
    phase, frame : int64 array (size,)
        0, 1 or 2, and how many actions were taken in it.
    board : uint8 array (size, CELLS)
        The contents of each cell, without the player, as numbered in
        :mod:`gatecore.tasks.environments.maps`.
    palette : uint8 array (size, PADS + pads, 3)
        Its colours. The first one of the pads' is the colour to match.
    eaten : uint8 array (size, 20)
        The cell of the apple eaten at a frame that leaves this remainder by 20, or 0.
    """

    actions = 4
    shape = (VIEW, VIEW, 3)
    dtype = np.uint8
    position: np.ndarray
    phase: np.ndarray
    frame: np.ndarray
    board: np.ndarray
    palette: np.ndarray
    eaten: np.ndarray
    kept: ClassVar = ("position", "phase", "frame", "board", "palette", "eaten")

    def __init__(
        self,
        size: int,
        level: Literal["passive", "active"] = "passive",
        phases: tuple[int, int, int] = (15, 90, 15),
        apple_reward: float = 0.0,
        pads: int = 3,
        wrong_reward: float = 0.0,
        right_reward: float = 10.0,
        colours: str | Sequence[tuple[int, int, int]] | None = None,
        ends_at_choice: bool = False,
    ) -> None:
        self.size = _checks.integer("size", size)
        self.level = _checks.choice("level", level, ("passive", "active"))
        self.phases = _phases(phases)
        if _checks.integer("pads", pads) not in maps.REWARD:
            raise ValueError(f"pads must be one of {list(maps.REWARD)}, got {pads}")
        self.pads = pads
        self.apple_reward = _checks.number("apple_reward", apple_reward)
        self.colours = palettes.of(colours, pads)
        self.ends_at_choice = bool(ends_at_choice)
        self.horizon = sum(self.phases)
        self._lengths = np.array(self.phases)
        self._pays = np.full(pads, _checks.number("wrong_reward", wrong_reward), np.float32)
        self._pays[0] = _checks.number("right_reward", right_reward)
        self._maps = _Maps(self.level, pads)
        self._first = np.arange(self.size) * CELLS  # of each board, among all boards' cells
        self._allocate()
        self.reset(0)

    def step(self, actions: np.ndarray) -> Turn:
        reward, ended, score = self.advance(actions)
        self.renew(np.flatnonzero(ended))
        return Turn(self.observe(), reward, ended, score)

    def advance(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Take actions (games,), but leave games that end as they are: reward, ended, score."""
        self.frame += 1
        here = self._walk(self._checked(actions))
        score, chose = self._choose(here)
        reward = score + self._eat(here)
        over = self.frame == self._lengths[self.phase]
        ended = over & (self.phase == REWARD)
        if self.ends_at_choice:
            ended |= chose
        if over.any():
            self._go_on(over & ~ended)
        return reward, ended, score

    def observe(self) -> np.ndarray:
        """The cells around each player, uint8 (games, 5, 5, 3)."""
        around = (self._first + self.position)[:, None] + maps.WINDOW
        shown = self.board.ravel()[around]
        shown[:, VIEW * VIEW // 2] = PLAYER
        colours = self.palette.shape[1]
        rows = shown + np.arange(0, self.size * colours, colours)[:, None]
        seen = self.palette.reshape(-1, 3).take(rows, axis=0)
        return seen.reshape(self.size, *self.shape)

    def render(self, game: int = 0, scale: int = 16) -> np.ndarray:
        """A whole map as a picture, uint8 (7 · scale, 11 · scale, 3): ``scale`` pixels a cell."""
        shown = self.board[game].copy()
        shown[self.position[game]] = PLAYER
        picture = self.palette[game][maps.inner(shown)]
        return picture.repeat(scale, axis=0).repeat(scale, axis=1)

    def text(self, game: int = 0) -> str:
        """A whole map as seven lines: ``#`` wall, ``a`` apple, ``+`` player, digits for colours.

        0 is the colour to match.
        """
        shown = self.board[game].copy()
        shown[self.position[game]] = PLAYER
        return "\n".join("".join(_SYMBOLS[cell] for cell in row) for row in maps.inner(shown))

    def renew(self, games: np.ndarray) -> None:
        """Replace games by new ones, with colours, walls and a start of their own."""
        if not len(games):
            return
        colours = drawn(self._rng, len(games), len(self.colours), self.pads)
        self.palette[games, PADS:] = self.colours[colours]
        self._begin(games, EXPLORE, self._maps.explore, self._maps.starts)
        target = self._rng.choice(self._maps.candidates, len(games))
        self.board[games, target] = PADS

    def _walk(self, actions: np.ndarray) -> np.ndarray:
        """Move the players. Returns what their cells show."""
        ahead = self.position + maps.MOVES[actions]
        boards = self.board.ravel()
        shown = boards[self._first + ahead]
        blocked = (shown == WALL) | ((shown >= PADS) & (self.phase == EXPLORE))
        self.position = np.where(blocked, self.position, ahead)
        return boards[self._first + self.position]

    def _choose(self, here: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the pads pay, and which players are on one; their pads vanish."""
        paid, chose = np.zeros(self.size, np.float32), here >= PADS
        games = np.flatnonzero(chose)
        if len(games):
            paid[games] = self._pays[here[games] - PADS]
            self.board[games[:, None], self._maps.pads] = FLOOR
        return paid, chose

    def _eat(self, here: np.ndarray) -> np.ndarray:
        """What the apples pay; what was eaten 20 frames ago comes back."""
        found = here == APPLE
        games = np.flatnonzero(self.phase == DISTRACTOR)
        if len(games):
            eaten = np.where(found, self.position, 0)[games]  # cell 0 is the margin's
            self.board[games, eaten] = FLOOR
            moment = self.frame[games] % REGROWTH
            back = self.eaten[games, moment]
            self.board[games, back] = np.where(back, APPLE, FLOOR)
            self.eaten[games, moment] = eaten
        return found * np.float32(self.apple_reward)

    def _go_on(self, over: np.ndarray) -> None:
        """Bring games whose phase is over to the next one."""
        explored = over & (self.phase == EXPLORE) & (self.phases[DISTRACTOR] > 0)
        self._gather(np.flatnonzero(explored))
        self._offer(np.flatnonzero(over & ~explored))

    def _gather(self, games: np.ndarray) -> None:
        self._begin(games, DISTRACTOR, self._maps.distractor, self._maps.gathering)
        places = drawn(self._rng, len(games), len(self._maps.apples), APPLES)
        self.board[games[:, None], self._maps.apples[places]] = APPLE
        self.eaten[games] = 0

    def _offer(self, games: np.ndarray) -> None:
        self._begin(games, REWARD, self._maps.reward, self._maps.choosing)
        order = drawn(self._rng, len(games), self.pads, self.pads)
        self.board[games[:, None], self._maps.pads] = PADS + order

    def _begin(self, games: np.ndarray, phase: int, board: np.ndarray, starts: np.ndarray) -> None:
        self.phase[games] = phase
        self.frame[games] = 0
        self.board[games] = board
        self.position[games] = self._rng.choice(starts, len(games))

    def _allocate(self) -> None:
        self.position = np.zeros(self.size, np.int64)
        self.phase = np.zeros(self.size, np.int64)
        self.frame = np.zeros(self.size, np.int64)
        self.board = np.zeros((self.size, CELLS), np.uint8)
        self.palette = np.zeros((self.size, PADS + self.pads, 3), np.uint8)
        self.palette[:, :PADS] = palettes.FIXED
        self.eaten = np.zeros((self.size, REGROWTH), np.uint8)


class _Maps:
    """The boards and places of a level."""

    def __init__(self, level: str, pads: int) -> None:
        drawing = {"passive": maps.PASSIVE, "active": maps.ACTIVE}[level]
        self.explore = maps.board(drawing, walls="p")
        self.candidates, self.starts = maps.cells(drawing, "p"), maps.cells(drawing, "+")
        self.distractor = maps.board(maps.DISTRACTOR)
        self.apples = maps.cells(maps.DISTRACTOR, "a")
        self.gathering = maps.cells(maps.DISTRACTOR, "+")
        self.reward = maps.board(maps.REWARD[pads])
        self.pads = maps.cells(maps.REWARD[pads], "p")
        self.choosing = maps.cells(maps.REWARD[pads], "+")


def _phases(phases: Sequence[int]) -> tuple[int, int, int]:
    if len(phases) != 3:
        raise ValueError(f"phases must be three numbers of frames, got {phases!r}")
    explore, distractor, reward = (
        _checks.integer(f"phases[{k}]", frames, at_least=int(k != DISTRACTOR))
        for k, frames in enumerate(phases)
    )
    return explore, distractor, reward
