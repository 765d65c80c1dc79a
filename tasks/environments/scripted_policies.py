"""Players that follow a script: by them a learned player's score can be judged."""

from collections.abc import Callable

import numpy as np

from gatecore import _checks
from gatecore.contracts.environment import World
from gatecore.tasks.environments import maps
from gatecore.tasks.environments.match import REWARD, Match

Act = Callable[[np.random.Generator], np.ndarray]  # actions (games,) for what is there now


def walker(world: World) -> Act:
    """A player that draws its actions uniformly, in any world."""
    return lambda rng: rng.integers(world.actions, size=world.size)


def chooser(world: Match) -> Act:
    """A player without memory: as the pads appear it draws one, and takes a shortest way to it.

    Before that it walks at random.
    """
    slots = np.zeros(world.size, int)

    def choose(rng: np.random.Generator) -> np.ndarray:
        fresh = (world.phase == REWARD) & (world.frame == 0)
        slots[fresh] = rng.integers(world.pads, size=fresh.sum())
        return slots

    return _to(world, choose)


def perfect(world: Match) -> Act:
    """A player that knows the colour, and takes a shortest way to its pad.

    Before the pads appear it walks at random.
    """
    places = maps.cells(maps.REWARD[world.pads], "p")
    return _to(world, lambda rng: (world.board[:, places] == maps.PADS).argmax(axis=1))


def play(
    world: World, player: Callable[..., Act], episodes: int, rng: np.random.Generator | int
) -> np.ndarray:
    """The scores of games played from their beginning to their end, float32 (episodes,).

    The games side by side are each followed by as many others, so that short games do not crowd
    out long ones.

    Parameters
    ----------
    world : World
        It is reset.
    player : callable
        It takes the world, and returns what takes a generator and returns actions (games,).
    episodes : int
        At least 1.
    rng : numpy.random.Generator or int
        What the world draws from, and the player.
    """
    rng = _checks.generator(rng)
    rounds = -(-_checks.integer("episodes", episodes) // world.size)
    scores = np.zeros((rounds + 1, world.size), np.float32)  # the last row: games past the count
    played, games = np.zeros(world.size, int), np.arange(world.size)
    world.reset(rng)
    act = player(world)
    while played.min() < rounds:
        turn = world.step(act(rng))
        scores[played, games] += turn.score
        played = np.minimum(played + turn.ended, rounds)
    return scores[:rounds].ravel()[:episodes]


def _to(world: Match, choose: Act) -> Act:
    """A player that goes to the pad, counted from the left, that ``choose`` names."""
    ways, wander = _ways(world), walker(world)

    def act(rng: np.random.Generator) -> np.ndarray:
        there = ways[choose(rng), world.position]
        return np.where(world.phase == REWARD, there, wander(rng))

    return act


def _ways(world: Match) -> np.ndarray:
    """The first action of a shortest way to each pad that avoids the others, int (pads, CELLS)."""
    drawing = maps.REWARD[world.pads]
    places = maps.cells(drawing, "p")
    free = maps.board(drawing) == maps.FLOOR
    free[places] = False
    return np.stack([maps.way(free, place) for place in places.tolist()])
