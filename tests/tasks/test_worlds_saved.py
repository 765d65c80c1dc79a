"""Every world: games are a function of seed and actions, and can be taken up again."""

import numpy as np
import pytest

from gatecore.tasks.environments import scripted_policies
from gatecore.tasks.environments.cartpole import CartPole
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.memory_chain import MemoryChain
from gatecore.tasks.environments.t_maze import TMaze

WORLDS = {
    "passive": lambda size: Match(size, phases=(3, 26, 9), apple_reward=1.0, ends_at_choice=True),
    "active": lambda size: Match(size, "active", phases=(5, 3, 12), pads=4, wrong_reward=1.0),
    "maze": lambda size: TMaze(size, length=3),
    "chain": lambda size: MemoryChain(size, length=4, bits=3),
    "cartpole": lambda size: CartPole(size, horizon=20),
}
each_world = pytest.mark.parametrize("make", WORLDS.values(), ids=WORLDS)
SIZE, STEPS = 6, 90


def actions(world, seed=0):
    return np.random.default_rng(seed).integers(world.actions, size=(STEPS, world.size))


def same(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name, strict=True)


@each_world
def test_a_world_says_what_it_shows(make):
    world = make(SIZE)
    seen = world.reset(np.random.default_rng(1))
    for action in actions(world):
        assert (seen.shape, seen.dtype) == ((SIZE, *world.shape), world.dtype)
        turn = world.step(action)
        seen = turn.observation
        kinds = [(part.shape, part.dtype) for part in turn[1:]]
        assert kinds == [((SIZE,), np.float32), ((SIZE,), bool), ((SIZE,), np.float32)]


@each_world
def test_games_are_a_function_of_the_seed_and_the_actions(make):
    worlds = [make(SIZE) for _ in range(3)]
    first, again, other = (world.reset(seed) for world, seed in zip(worlds, (1, 1, 2), strict=True))
    np.testing.assert_array_equal(first, again)
    differ = bool((first != other).any())
    for action in actions(worlds[0]):
        turns = [world.step(action) for world in worlds]
        same(*turns[:2])
        differ |= bool((turns[0].observation != turns[2].observation).any())
    assert differ


@each_world
def test_what_was_returned_stays_as_it_was(make):
    world = make(SIZE)
    returned = [world.reset(np.random.default_rng(1))]
    copies = [returned[0].copy()]
    for action in actions(world):
        turn = world.step(action)
        returned += turn
        copies += [part.copy() for part in turn]
    for part, copy in zip(returned, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


@each_world
def test_games_last_no_longer_than_the_horizon_and_some_last_as_long(make):
    world = make(SIZE)
    world.reset(np.random.default_rng(2))
    lasted, longest = np.zeros(SIZE, int), 0
    for action in actions(world):
        lasted += 1
        ended = world.step(action).ended
        longest = max(longest, *lasted[ended], 0) if ended.any() else longest
        lasted[ended] = 0
        assert (lasted < world.horizon).all()
    assert longest == world.horizon or isinstance(world, CartPole)  # whose poles fall


@each_world
def test_a_world_taken_up_at_any_frame_goes_on_the_same(make):
    world = make(SIZE)
    chosen = actions(world)
    states, seen = [], [world.reset(np.random.default_rng(3))]
    turns = []
    for action in chosen:
        states.append(world.state_dict())
        turns.append(world.step(action))
        seen.append(turns[-1].observation)
    for frame in range(0, STEPS, 7):
        other = make(SIZE)
        other.reset(np.random.default_rng(99))
        other.step(chosen[-1])
        np.testing.assert_array_equal(other.load_state_dict(states[frame]), seen[frame])
        for action, turn in zip(chosen[frame:], turns[frame:], strict=True):
            same(other.step(action), turn)
        for name, part in world.state_dict().items():
            np.testing.assert_array_equal(part, other.state_dict()[name], strict=True)


@each_world
def test_a_state_is_a_copy_and_stays_one(make):
    world = make(SIZE)
    world.reset(np.random.default_rng(4))
    state = world.state_dict()
    kept = {name: part.copy() for name, part in state.items()}
    other = make(SIZE)
    other.load_state_dict(state)
    for action in actions(world):
        world.step(action)
        other.step(action)
    assert {name: part.shape for name, part in world.state_dict().items()} == {
        name: part.shape for name, part in kept.items()
    }
    for name, part in kept.items():
        np.testing.assert_array_equal(state[name], part)


@each_world
def test_taking_up_games_leaves_the_generator_of_reset_alone(make):
    world, rng = make(SIZE), np.random.default_rng(5)
    world.reset(rng)
    before = rng.bit_generator.state
    world.load_state_dict(make(SIZE).state_dict())
    for action in actions(world):
        world.step(action)
    assert rng.bit_generator.state == before


@each_world
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(make):
    world = make(SIZE)
    world.reset(np.random.default_rng(6))
    state = world.state_dict()
    name = world.kept[0]
    wrong = [
        ({k: part for k, part in state.items() if k != name}, "missing or unknown"),
        ({**state, "more": np.zeros(1)}, r"missing or unknown are \['more'\]"),
        ({**state, name: state[name][..., :-1]}, f"state\\['{name}'\\] must be"),
        ({**state, name: state[name].astype(np.float16)}, f"state\\['{name}'\\] must be"),
        ({**state, "generator": state["generator"][:5]}, r"state\['generator'\] must be uint64"),
    ]
    for unfit, words in wrong:
        with pytest.raises(ValueError, match=words):
            world.load_state_dict(unfit)
        for k, part in world.state_dict().items():
            np.testing.assert_array_equal(part, state[k])


@each_world
def test_actions_that_cannot_be_say_what_was_expected(make):
    world = make(SIZE)
    with pytest.raises(ValueError, match=r"actions must have shape \(6,\), got \(5,\)"):
        world.step(np.zeros(5, int))
    with pytest.raises(TypeError, match="actions must be integers, got dtype float64"):
        world.step(np.zeros(6))
    for action in (-1, world.actions):
        with pytest.raises(ValueError, match=f"actions must be 0..{world.actions - 1}"):
            world.step(np.full(6, action))


@each_world
def test_a_generator_of_another_kind_is_refused(make):
    with pytest.raises(TypeError, match="PCG64 bit generator, as default_rng: got Philox"):
        make(SIZE).reset(np.random.Generator(np.random.Philox(1)))


@each_world
def test_a_walker_can_play_every_world(make):
    scores = scripted_policies.play(make(SIZE), scripted_policies.walker, 20, rng=7)
    assert (scores.shape, scores.dtype) == ((20,), np.float32)
