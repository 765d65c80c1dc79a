"""T-maze, memory chains and CartPole by hand."""

import gymnasium
import numpy as np
import pytest

from gatecore.tasks.environments.cartpole import CartPole
from gatecore.tasks.environments.memory_chain import LENGTHS, MemoryChain
from gatecore.tasks.environments.scripted_policies import play, walker
from gatecore.tasks.environments.t_maze import DOWN, LEFT, RIGHT, UP, TMaze


def rewards(world, steps):
    """What a single game's steps bring, and whether the last alone ends it."""
    turns = [world.step(np.array([step])) for step in steps]
    assert [bool(turn.ended[0]) for turn in turns] == [False] * (len(turns) - 1) + [True]
    np.testing.assert_array_equal([t.score for t in turns], [t.reward for t in turns])
    return [pytest.approx(float(turn.reward[0])) for turn in turns]


@pytest.mark.parametrize("cue", [1, -1])
def test_the_arm_of_the_cue_pays_and_the_other_does_not(cue):
    for arm, worth in ((UP, 1), (DOWN, -1)):
        world = TMaze(1, length=4)
        world.cue[:] = cue
        assert rewards(world, [RIGHT] * 4 + [arm]) == [0] * 4 + [float(worth == cue)]


def test_the_cue_is_seen_at_the_first_step_alone_and_the_junction_when_there():
    world = TMaze(1, length=3)
    world.cue[:] = -1
    seen = [world.observe()]
    for step in (RIGHT, LEFT, RIGHT):
        seen.append(world.step(np.array([step])).observation)
    np.testing.assert_array_equal(seen, [[[0, -1]], [[0, 0]], [[0, 0]], [[0, 0]]])
    world = TMaze(1, length=3)
    seen = [world.step(np.array([RIGHT])).observation for _ in range(3)]
    np.testing.assert_array_equal(seen, [[[0, 0]], [[0, 0]], [[1, 0]]])


def test_each_late_step_costs_its_part_and_an_arm_can_no_longer_be_reached():
    world = TMaze(1, length=4)
    assert rewards(world, [RIGHT, UP, RIGHT, RIGHT, UP]) == [0, -0.25, -0.25, -0.25, 0]
    assert rewards(world, [LEFT] * 5) == [-0.25] * 4 + [0]
    assert rewards(world, [RIGHT, RIGHT, LEFT, RIGHT, UP]) == [0, 0, -0.25, -0.25, 0]
    assert rewards(world, [RIGHT] * 5) == [0] * 5


def test_without_memory_a_t_maze_is_worth_a_half():
    def forgetful(world):
        return lambda rng: np.where(world.position == world.length, UP, RIGHT)

    scores = play(TMaze(100, length=10), forgetful, 4000, rng=1)
    assert set(scores.tolist()) == {0, 1}
    assert scores.mean() == pytest.approx(0.5, abs=0.04)


def test_a_chain_asks_at_its_end_for_a_bit_of_its_beginning():
    world = MemoryChain(1, length=4, bits=3)
    world.context[:], world.query[:] = [1, 0, 1], 2
    seen = [world.observe()[0]]
    turns = [world.step(np.array([0])) for _ in range(4)]
    seen += [turn.observation[0] for turn in turns]
    np.testing.assert_array_equal(
        seen,
        [[1, 0, 1, -1, 1], [0.75, 0, 0, 0, 0], [0.5, 0, 0, 0, 0], [0.25, 0, 0, 0, 0],
         [0, 2, 0, 0, 0]],
    )  # fmt: skip
    assert [float(turn.reward[0]) for turn in turns] == [0] * 4
    assert rewards(world, [1]) == [1]


@pytest.mark.parametrize("context", [0, 1])
@pytest.mark.parametrize("answer", [0, 1])
def test_the_last_answer_alone_counts(context, answer):
    world = MemoryChain(1, length=2)
    world.context[:] = context
    assert rewards(world, [1 - answer, 1 - answer, answer]) == [0, 0, 2 * (context == answer) - 1]


def test_a_chain_without_memory_is_worth_nothing_and_with_it_one():
    def remembering(world):
        return lambda rng: world.context[np.arange(world.size), world.query]

    world = MemoryChain(100, length=5, bits=4)
    assert play(world, walker, 4000, rng=2).mean() == pytest.approx(0, abs=0.07)
    assert (play(world, remembering, 500, rng=2) == 1).all()
    assert set(np.unique(world.query)) == {0, 1, 2, 3}


def test_the_lengths_are_those_of_bsuite():
    assert (len(LENGTHS), LENGTHS[0], LENGTHS[-1]) == (23, 1, 100)


def test_cartpole_moves_as_gymnasium_says_and_hides_the_velocities():
    """Beside gymnasium's single CartPole, until each pole has fallen once."""
    world, single = CartPole(5), gymnasium.make("CartPole-v1").unwrapped
    world.reset(np.random.default_rng(3))
    starts, rng = world.state.T.copy(), np.random.default_rng(4)
    pushes = rng.integers(2, size=(200, 5))
    turns = [world.step(push) for push in pushes]
    for game, start in enumerate(starts):
        single.reset(seed=0)
        single.state = start
        for push, turn in zip(pushes[:, game], turns, strict=True):
            full, reward, fallen, _, _ = single.step(int(push))
            assert (turn.reward[game], turn.ended[game]) == (reward, fallen)
            if fallen:
                break
            np.testing.assert_allclose(
                turn.observation[game], full[[0, 2]] / [2.4, np.radians(12)], rtol=1e-5, atol=1e-7
            )
        assert fallen


def test_a_pole_that_falls_is_followed_by_one_near_the_middle():
    world = CartPole(64)
    world.reset(np.random.default_rng(5))
    for _ in range(60):
        turn = world.step(np.ones(64, int))
        fresh = world.state[:, turn.ended]
        assert (np.abs(fresh) <= 0.05).all()
        assert (world.steps[turn.ended] == 0).all()
        assert (turn.reward == 1).all()


def test_a_pole_that_stays_up_is_taken_down_at_the_horizon():
    world = CartPole(8, horizon=200)
    world.reset(np.random.default_rng(6))
    for frame in range(1, 401):
        angle, speed = world.state[2:]
        turn = world.step((angle + 0.5 * speed > 0).astype(int))
        assert turn.ended.all() == turn.ended.any() == (frame % 200 == 0)


def test_a_walker_keeps_a_pole_up_for_some_twenty_steps():
    scores = play(CartPole(100), walker, 1000, rng=7)
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
def test_settings_that_cannot_be_say_what_was_expected(make, words):
    with pytest.raises(ValueError, match=words):
        make()
