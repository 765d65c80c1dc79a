"""Every environment: a function of seed and actions; its state can be saved and restored."""

import numpy as np
import pytest

from gatecore.tasks.environments import scripted_policies
from gatecore.tasks.environments.cartpole import CartPole
from gatecore.tasks.environments.match import Match
from gatecore.tasks.environments.memory_chain import MemoryChain
from gatecore.tasks.environments.t_maze import TMaze

ENVIRONMENTS = {
    "passive": lambda size: Match(size, phases=(3, 26, 9), apple_reward=1.0, ends_at_choice=True),
    "active": lambda size: Match(size, "active", phases=(5, 3, 12), pads=4, wrong_reward=1.0),
    "maze": lambda size: TMaze(size, length=3),
    "chain": lambda size: MemoryChain(size, length=4, bits=3),
    "cartpole": lambda size: CartPole(size, horizon=20),
}
each_environment = pytest.mark.parametrize("make", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
SIZE, STEPS = 6, 90


def actions(environment, seed=0):
    return np.random.default_rng(seed).integers(environment.actions, size=(STEPS, environment.size))


def same(one, other):
    for name, a, b in zip(one._fields, one, other, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=name, strict=True)


@each_environment
def test_observations_have_the_declared_shape_and_dtype(make):
    environment = make(SIZE)
    observation = environment.reset(np.random.default_rng(1))
    for action in actions(environment):
        assert (observation.shape, observation.dtype) == (
            (SIZE, *environment.shape),
            environment.dtype,
        )
        result = environment.step(action)
        observation = result.observation
        types = [(part.shape, part.dtype) for part in result[1:]]
        assert types == [((SIZE,), np.float32), ((SIZE,), bool), ((SIZE,), np.float32)]


@each_environment
def test_episodes_are_a_function_of_the_seed_and_the_actions(make):
    environments = [make(SIZE) for _ in range(3)]
    first, again, other = (
        environment.reset(seed) for environment, seed in zip(environments, (1, 1, 2), strict=True)
    )
    np.testing.assert_array_equal(first, again)
    differ = bool((first != other).any())
    for action in actions(environments[0]):
        results = [environment.step(action) for environment in environments]
        same(*results[:2])
        differ |= bool((results[0].observation != results[2].observation).any())
    assert differ


@each_environment
def test_returned_arrays_are_not_overwritten(make):
    environment = make(SIZE)
    returned = [environment.reset(np.random.default_rng(1))]
    copies = [returned[0].copy()]
    for action in actions(environment):
        result = environment.step(action)
        returned += result
        copies += [part.copy() for part in result]
    for part, copy in zip(returned, copies, strict=True):
        np.testing.assert_array_equal(part, copy)


@each_environment
def test_the_horizon_is_the_length_of_the_longest_episodes(make):
    environment = make(SIZE)
    environment.reset(np.random.default_rng(2))
    length, longest = np.zeros(SIZE, int), 0
    for action in actions(environment):
        length += 1
        ended = environment.step(action).ended
        longest = max(longest, *length[ended], 0) if ended.any() else longest
        length[ended] = 0
        assert (length < environment.horizon).all()
    assert longest == environment.horizon or isinstance(environment, CartPole)  # whose poles fall


@each_environment
def test_a_state_restored_at_any_frame_continues_identically(make):
    environment = make(SIZE)
    sequence = actions(environment)
    states, observations = [], [environment.reset(np.random.default_rng(3))]
    results = []
    for action in sequence:
        states.append(environment.state_dict())
        results.append(environment.step(action))
        observations.append(results[-1].observation)
    for frame in range(0, STEPS, 7):
        other = make(SIZE)
        other.reset(np.random.default_rng(99))
        other.step(sequence[-1])
        np.testing.assert_array_equal(other.load_state_dict(states[frame]), observations[frame])
        for action, result in zip(sequence[frame:], results[frame:], strict=True):
            same(other.step(action), result)
        for name, part in environment.state_dict().items():
            np.testing.assert_array_equal(part, other.state_dict()[name], strict=True)


@each_environment
def test_a_state_dict_is_a_copy(make):
    environment = make(SIZE)
    environment.reset(np.random.default_rng(4))
    state = environment.state_dict()
    copies = {name: part.copy() for name, part in state.items()}
    other = make(SIZE)
    other.load_state_dict(state)
    for action in actions(environment):
        environment.step(action)
        other.step(action)
    assert {name: part.shape for name, part in environment.state_dict().items()} == {
        name: part.shape for name, part in copies.items()
    }
    for name, part in copies.items():
        np.testing.assert_array_equal(state[name], part)


@each_environment
def test_loading_a_state_leaves_the_generator_of_reset_alone(make):
    environment, rng = make(SIZE), np.random.default_rng(5)
    environment.reset(rng)
    before = rng.bit_generator.state
    environment.load_state_dict(make(SIZE).state_dict())
    for action in actions(environment):
        environment.step(action)
    assert rng.bit_generator.state == before


@each_environment
def test_an_invalid_state_is_refused_and_changes_nothing(make):
    environment = make(SIZE)
    environment.reset(np.random.default_rng(6))
    state = environment.state_dict()
    name = environment.state_names[0]
    wrong = [
        ({k: part for k, part in state.items() if k != name}, "missing or unknown"),
        ({**state, "more": np.zeros(1)}, r"missing or unknown: \['more'\]"),
        ({**state, name: state[name][..., :-1]}, f"state\\['{name}'\\] must be"),
        ({**state, name: state[name].astype(np.float16)}, f"state\\['{name}'\\] must be"),
        ({**state, "generator": state["generator"][:5]}, r"state\['generator'\] must be uint64"),
    ]
    for state_dict, words in wrong:
        with pytest.raises(ValueError, match=words):
            environment.load_state_dict(state_dict)
        for k, part in environment.state_dict().items():
            np.testing.assert_array_equal(part, state[k])


@each_environment
def test_invalid_actions_are_refused(make):
    environment = make(SIZE)
    with pytest.raises(ValueError, match=r"actions must have shape \(6,\), got \(5,\)"):
        environment.step(np.zeros(5, int))
    with pytest.raises(TypeError, match="actions must be integers, got dtype float64"):
        environment.step(np.zeros(6))
    for action in (-1, environment.actions):
        with pytest.raises(ValueError, match=f"actions must be 0..{environment.actions - 1}"):
            environment.step(np.full(6, action))


@each_environment
def test_a_generator_of_another_kind_is_refused(make):
    with pytest.raises(TypeError, match="PCG64 bit generator, as default_rng: got Philox"):
        make(SIZE).reset(np.random.Generator(np.random.Philox(1)))


@each_environment
def test_a_random_walk_can_act_in_every_environment(make):
    scores = scripted_policies.play(make(SIZE), scripted_policies.random_walk, 20, rng=7)
    assert (scores.shape, scores.dtype) == ((20,), np.float32)
