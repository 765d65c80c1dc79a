"""Scripted policies score in Match what theory predicts."""

import numpy as np
import pytest

from gatecore.tasks.environments import maps
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.scripted_policies import (
    always_choosing,
    perfect,
    play,
    random_walk,
)

EPISODES = 10_000
FOUR = dict(pads=4, wrong_reward=1.0)


@pytest.mark.parametrize("level", ["passive", "active"])
@pytest.mark.parametrize("ends_at_choice", [False, True])
def test_the_perfect_policy_scores_10_in_every_episode(level, ends_at_choice):
    environment = Match(500, level, ends_at_choice=ends_at_choice, apple_reward=5.0, **FOUR)
    assert (play(environment, perfect, EPISODES, rng=1) == 10).all()


@pytest.mark.parametrize("level", ["passive", "active"])
def test_always_choosing_scores_a_third_of_it(level):
    scores = play(Match(500, level), always_choosing, EPISODES, rng=2)
    assert set(scores.tolist()) == {0, 10}
    assert scores.mean() == pytest.approx(10 / 3, abs=0.15)


def test_always_choosing_among_four_pads_scores_3_25():
    scores = play(Match(500, **FOUR), always_choosing, EPISODES, rng=3)
    assert set(scores.tolist()) == {1, 10}
    assert scores.mean() == pytest.approx((10 + 3) / 4, abs=0.15)


def test_a_random_walk_scores_its_chance_of_reaching_a_pad():
    """The distribution of the player's cell, frame by frame; pads absorb it."""
    rows, at, arrived = maps.REWARD[3], {(5, 5): 1.0}, 0.0
    for _ in range(15):
        after: dict[tuple[int, int], float] = {}
        for (i, j), chance in at.items():
            for there in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
                symbol = rows[there[0]][there[1]]
                if symbol == "p":
                    arrived += chance / 4
                else:
                    cell = (i, j) if symbol == "#" else there
                    after[cell] = after.get(cell, 0) + chance / 4
        at = after
    expected = 10 * arrived / 3
    assert expected == pytest.approx(0.51, abs=0.005)
    scores = play(Match(500, "active"), random_walk, EPISODES, rng=4)
    assert scores.mean() == pytest.approx(expected, abs=0.1)


def test_every_episode_is_counted_once_however_long_it_is():
    """Short episodes are those with a choice; counted more often, they would raise the mean."""
    ends = Match(500, phases=(1, 0, 15), ends_at_choice=True)
    stays = Match(500, phases=(1, 0, 15))
    means = [play(environment, random_walk, 30_000, rng=5).mean() for environment in (ends, stays)]
    np.testing.assert_allclose(means, 0.512, atol=0.05)


def test_play_is_deterministic_and_returns_one_score_per_episode():
    first, again = (play(Match(30), always_choosing, 100, rng=6) for _ in range(2))
    assert first.shape == (100,)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        play(Match(3), random_walk, 0, rng=0)
