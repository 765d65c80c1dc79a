"""T-maze, memory chains and CartPole."""

import gymnasium
import numpy as np
import pytest

from gatecore.tasks.environments.cartpole import CartPole
from gatecore.tasks.environments.memory_chain import LENGTHS, MemoryChain
from gatecore.tasks.environments.scripted_policies import play, random_walk
from gatecore.tasks.environments.t_maze import DOWN, LEFT, RIGHT, UP, TMaze


def rewards(environment, steps):
    """The rewards of a single episode, which must end at the last step."""
    results = [environment.step(np.array([step])) for step in steps]
    assert [bool(result.ended[0]) for result in results] == [False] * (len(results) - 1) + [True]
    np.testing.assert_array_equal([t.score for t in results], [t.reward for t in results])
    return [pytest.approx(float(result.reward[0])) for result in results]


@pytest.mark.parametrize("cue", [1, -1])
def test_the_arm_of_the_cue_pays_and_the_other_does_not(cue):
    for arm, worth in ((UP, 1), (DOWN, -1)):
        environment = TMaze(1, length=4)
        environment.cue[:] = cue
        assert rewards(environment, [RIGHT] * 4 + [arm]) == [0] * 4 + [float(worth == cue)]


def test_the_cue_is_observed_at_the_first_step_and_the_junction_at_the_end():
    environment = TMaze(1, length=3)
    environment.cue[:] = -1
    observations = [environment.observe()]
    for step in (RIGHT, LEFT, RIGHT):
        observations.append(environment.step(np.array([step])).observation)
    np.testing.assert_array_equal(observations, [[[0, -1]], [[0, 0]], [[0, 0]], [[0, 0]]])
    environment = TMaze(1, length=3)
    observations = [environment.step(np.array([RIGHT])).observation for _ in range(3)]
    np.testing.assert_array_equal(observations, [[[0, 0]], [[0, 0]], [[1, 0]]])


def test_each_late_step_costs_1_over_length_and_makes_the_arm_unreachable():
    environment = TMaze(1, length=4)
    assert rewards(environment, [RIGHT, UP, RIGHT, RIGHT, UP]) == [0, -0.25, -0.25, -0.25, 0]
    assert rewards(environment, [LEFT] * 5) == [-0.25] * 4 + [0]
    assert rewards(environment, [RIGHT, RIGHT, LEFT, RIGHT, UP]) == [0, 0, -0.25, -0.25, 0]
    assert rewards(environment, [RIGHT] * 5) == [0] * 5


def test_a_memoryless_policy_scores_a_half_in_the_t_maze():
    def memoryless(environment):
        return lambda rng: np.where(environment.position == environment.length, UP, RIGHT)

    scores = play(TMaze(100, length=10), memoryless, 4000, rng=1)
    assert set(scores.tolist()) == {0, 1}
    assert scores.mean() == pytest.approx(0.5, abs=0.04)


def test_a_memory_chain_queries_a_bit_of_the_first_step_at_the_last():
    environment = MemoryChain(1, length=4, bits=3)
    environment.context[:], environment.query[:] = [1, 0, 1], 2
    observations = [environment.observe()[0]]
    results = [environment.step(np.array([0])) for _ in range(4)]
    observations += [result.observation[0] for result in results]
    np.testing.assert_array_equal(
        observations,
        [[1, 0, 1, -1, 1], [0.75, 0, 0, 0, 0], [0.5, 0, 0, 0, 0], [0.25, 0, 0, 0, 0],
         [0, 2, 0, 0, 0]],
    )  # fmt: skip
    assert [float(result.reward[0]) for result in results] == [0] * 4
    assert rewards(environment, [1]) == [1]


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("answer", [0, 1])
def test_only_the_last_action_is_rewarded(context, answer):
    environment = MemoryChain(1, length=2)
    environment.context[:] = context
    assert rewards(environment, [1 - answer, 1 - answer, answer]) == [
        0,
        0,
        2 * (context == answer) - 1,
    ]


def test_a_memory_chain_scores_0_without_memory_and_1_with_it():
    def remembering(environment):
        return lambda rng: environment.context[np.arange(environment.size), environment.query]

    environment = MemoryChain(100, length=5, bits=4)
    assert play(environment, random_walk, 4000, rng=2).mean() == pytest.approx(0, abs=0.07)
    assert (play(environment, remembering, 500, rng=2) == 1).all()
    assert set(np.unique(environment.query)) == {0, 1, 2, 3}


def test_the_lengths_are_those_of_bsuite():
    assert (len(LENGTHS), LENGTHS[0], LENGTHS[-1]) == (23, 1, 100)


def test_cartpole_has_gymnasiums_physics_and_hides_the_velocities():
    """Compared with gymnasium's single CartPole, until each pole has fallen once."""
    environment, single = CartPole(5), gymnasium.make("CartPole-v1").unwrapped
    environment.reset(np.random.default_rng(3))
    starts, rng = environment.state.T.copy(), np.random.default_rng(4)
    pushes = rng.integers(2, size=(200, 5))
    results = [environment.step(push) for push in pushes]
    for episode, start in enumerate(starts):
        single.reset(seed=0)
        single.state = start
        for push, result in zip(pushes[:, episode], results, strict=True):
            full, reward, fallen, _, _ = single.step(int(push))
            assert (result.reward[episode], result.ended[episode]) == (reward, fallen)
            if fallen:
                break
            np.testing.assert_allclose(
                result.observation[episode],
                full[[0, 2]] / [2.4, np.radians(12)],
                rtol=1e-5,
                atol=1e-7,
            )
        assert fallen


def test_an_episode_that_ends_is_followed_by_one_near_the_middle():
    environment = CartPole(64)
    environment.reset(np.random.default_rng(5))
    for _ in range(60):
        result = environment.step(np.ones(64, int))
        new = environment.state[:, result.ended]
        assert (np.abs(new) <= 0.05).all()
        assert (environment.steps[result.ended] == 0).all()
        assert (result.reward == 1).all()


def test_a_balanced_pole_ends_its_episode_at_the_horizon():
    environment = CartPole(8, horizon=200)
    environment.reset(np.random.default_rng(6))
    for frame in range(1, 401):
        angle, speed = environment.state[2:]
        result = environment.step((angle + 0.5 * speed > 0).astype(int))
        assert result.ended.all() == result.ended.any() == (frame % 200 == 0)


def test_a_random_walk_balances_for_about_twenty_steps():
    scores = play(CartPole(100), random_walk, 1000, rng=7)
    assert scores.mean() == pytest.approx(22, abs=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TMaze(1, length=0), "length must be at least 1, got 0"),
        (lambda: MemoryChain(1, length=0), "length must be at least 1, got 0"),
        (lambda: MemoryChain(1, bits=0), "bits must be at least 1, got 0"),
        (lambda: CartPole(1, horizon=0), "horizon must be at least 1, got 0"),
        (lambda: CartPole(0), "size must be at least 1, got 0"),
    ],
)
def test_invalid_settings_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
