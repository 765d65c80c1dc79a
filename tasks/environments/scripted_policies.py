"""Scripted policies: scores to judge a learned policy by."""

from collections.abc import Callable

import numpy as np

from gatecore import _checks
from gatecore.contracts.environment import Environment
from gatecore.tasks.environments import maps
from gatecore.tasks.environments.match import REWARD, Match

Act = Callable[[np.random.Generator], np.ndarray]  # actions (size,) in the current state
Rng = np.random.Generator | int


def random_walk(environment: Environment) -> Act:
    """A policy that draws actions uniformly, for any environment."""
    return lambda rng: rng.integers(environment.actions, size=environment.size)


def always_choosing(environment: Match) -> Act:
    """A memoryless policy: a random walk, then a shortest path to a pad drawn when they appear."""
    targets = np.zeros(environment.size, int)

    def choose(rng: np.random.Generator) -> np.ndarray:
        new = (environment.phase == REWARD) & (environment.frame == 0)
        targets[new] = rng.integers(environment.pads, size=new.sum())
        return targets

    return _go_to_pad(environment, choose)


def perfect(environment: Match) -> Act:
    """A random walk, then a shortest path to the right pad, whose colour it reads in the state."""
    places = maps.cells(maps.REWARD[environment.pads], "p")
    return _go_to_pad(environment, lambda rng: (
        environment.board[:, places] == maps.PADS).argmax(axis=1))  # fmt: skip


walker, chooser = random_walk, always_choosing  # the former names


def play(
    environment: Environment, policy: Callable[..., Act], episodes: int, rng: Rng
) -> np.ndarray:
    """The scores of whole episodes, float32 (episodes,).

    Each of the parallel episodes is followed by the same number of others, so that short episodes
    are not overrepresented. ``environment`` is reset. ``policy`` takes the environment,
    and returns a function of a generator that returns actions (size,) for the current state.
    ``rng``, a generator or a seed, is the source of the environment's and the policy's random
    numbers. TypeError or ValueError unless ``episodes`` is an integer of at least 1.

    >>> play(Match(2), perfect, episodes=3, rng=0)
    array([10., 10., 10.], dtype=float32)
    """
    rng = _checks.generator(rng)
    rounds = -(-_checks.integer("episodes", episodes) // environment.size)
    scores = np.zeros((rounds + 1, environment.size), np.float32)  # the last row: surplus episodes
    finished, column = np.zeros(environment.size, int), np.arange(environment.size)
    environment.reset(rng)
    act = policy(environment)
    while finished.min() < rounds:
        result = environment.step(act(rng))
        scores[finished, column] += result.score
        finished = np.minimum(finished + result.ended, rounds)
    return scores[:rounds].ravel()[:episodes]


def _go_to_pad(environment: Match, choose: Act) -> Act:
    """A policy that goes to the pad, counted from the left, that ``choose`` returns."""
    rows = maps.REWARD[environment.pads]
    places = maps.cells(rows, "p")
    free = maps.board(rows) == maps.FLOOR
    free[places] = False  # a path avoids the other pads
    paths = np.stack([maps.first_actions(free, place) for place in places.tolist()])
    wander = random_walk(environment)

    def act(rng: np.random.Generator) -> np.ndarray:
        towards = paths[choose(rng), environment.position]
        return np.where(environment.phase == REWARD, towards, wander(rng))

    return act
