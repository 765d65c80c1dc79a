"""Players that follow a script in Match score what can be worked out for them."""

import numpy as np
import pytest

from gatecore.tasks.environments import maps
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.scripted_policies import chooser, perfect, play, walker

EPISODES = 10_000
FOUR = dict(pads=4, wrong_reward=1.0)


@pytest.mark.parametrize("level", ["passive", "active"])
@pytest.mark.parametrize("ends_at_choice", [False, True])
def test_who_knows_the_colour_scores_10_in_every_game(level, ends_at_choice):
    world = Match(500, level, ends_at_choice=ends_at_choice, apple_reward=5.0, **FOUR)
    assert (play(world, perfect, EPISODES, rng=1) == 10).all()


@pytest.mark.parametrize("level", ["passive", "active"])
def test_choosing_without_memory_scores_a_third_of_it(level):
    scores = play(Match(500, level), chooser, EPISODES, rng=2)
    assert set(scores.tolist()) == {0, 10}
    assert scores.mean() == pytest.approx(10 / 3, abs=0.15)


def test_choosing_without_memory_among_four_scores_3_25():
    scores = play(Match(500, **FOUR), chooser, EPISODES, rng=3)
    assert set(scores.tolist()) == {1, 10}
    assert scores.mean() == pytest.approx((10 + 3) / 4, abs=0.15)


def test_a_uniform_walker_scores_what_its_chance_of_reaching_a_pad_is_worth():
    """The chance, frame by frame: where the walker may be, and what has been absorbed by pads."""
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
    scores = play(Match(500, "active"), walker, EPISODES, rng=4)
    assert scores.mean() == pytest.approx(expected, abs=0.1)


def test_every_game_is_counted_once_however_long_it_is():
    """Short games are those that chose; were they counted more often, scores would be higher."""
    ends = Match(500, phases=(1, 0, 15), ends_at_choice=True)
    stays = Match(500, phases=(1, 0, 15))
    means = [play(world, walker, 30_000, rng=5).mean() for world in (ends, stays)]
    np.testing.assert_allclose(means, 0.512, atol=0.05)


def test_the_same_seed_gives_the_same_scores_and_as_many_as_asked_for():
    first, again = (play(Match(30), chooser, 100, rng=6) for _ in range(2))
    assert first.shape == (100,)
    np.testing.assert_array_equal(first, again)
    with pytest.raises(ValueError, match="episodes must be at least 1, got 0"):
        play(Match(3), walker, 0, rng=0)
