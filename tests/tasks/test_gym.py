"""Match in gymnasium: registered, valid by its checker, equal to the environment it wraps."""

import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

from gatecore.tasks.environments.gym import MatchEnv, MatchVectorEnv
from gatecore.tasks.environments.match import FIRST_PERSON, Match

NAMES = ["gatecore/PassiveMatch-v0", "gatecore/ActiveMatch-v0"]
each_name = pytest.mark.parametrize("name", NAMES)


@each_name
@pytest.mark.parametrize("mode", [None, "rgb_array", "ansi"])
def test_gymnasiums_checker_passes(name, mode):
    check_env(gymnasium.make(name, render_mode=mode).unwrapped, skip_render_check=False)


@each_name
def test_a_single_environment_equals_match_of_size_1(name):
    level = "passive" if "Passive" in name else "active"
    env, match = gymnasium.make(name, apple_reward=1.0), Match(1, level, apple_reward=1.0)
    observation, info = env.reset(seed=5)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(5)))
    np.testing.assert_array_equal(observation, match.reset(rng)[0])
    assert info == {}
    for frame in range(1, 121):
        action = int(np.random.default_rng(frame).integers(4))
        observation, reward, terminated, truncated, info = env.step(action)
        result = match.step(np.array([action]))
        assert (reward, terminated, truncated) == (result.reward[0], frame == 120, False)
        assert info == {"score": result.score[0]}
        if not terminated:
            np.testing.assert_array_equal(observation, result.observation[0])
    with pytest.raises(RuntimeError, match="the episode is over: call reset"):
        env.step(0)


@each_name
def test_reset_without_a_seed_continues_the_random_stream(name):
    env = gymnasium.make(name)
    episodes = {}
    for attempt in range(2):
        for seed in (1, 2):
            env.reset(seed=seed)
            texts = [env.unwrapped.match.text()]
            for _ in range(5):
                env.reset()
                texts.append(env.unwrapped.match.text())
            assert episodes.setdefault(seed, texts) == texts, attempt
    assert episodes[1] != episodes[2]
    assert len(set(episodes[1])) > 1


@each_name
def test_a_vector_environment_equals_match_of_its_size(name):
    level = "passive" if "Passive" in name else "active"
    envs = gymnasium.make_vec(
        name, num_envs=7, vectorization_mode="vector_entry_point", phases=(2, 3, 9),
        ends_at_choice=True,
    )  # fmt: skip
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    match = Match(7, level, phases=(2, 3, 9), ends_at_choice=True)
    observation, _ = envs.reset(seed=3)
    assert envs.observation_space.contains(observation)
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(3)))
    np.testing.assert_array_equal(observation, match.reset(rng))
    envs.action_space.seed(4)
    for _ in range(60):
        actions = envs.action_space.sample()
        observation, reward, terminated, truncated, _ = envs.step(actions)
        result = match.step(actions)
        for part, same in zip((observation, reward, terminated), result[:3], strict=True):
            np.testing.assert_array_equal(part, same)
        assert envs.observation_space.contains(observation)
        assert not truncated.any()


def test_final_observations_and_infos_are_reported_as_by_gymnasium():
    """Compared with gymnasium's synchronous vector environment of size 1."""
    phases = (1, 2, 12)
    kinds = {"vector_entry_point": {}, "sync": {"autoreset_mode": AutoresetMode.SAME_STEP}}
    ours, theirs = (
        gymnasium.make_vec(
            NAMES[0], num_envs=1, vectorization_mode=kind, vector_kwargs=kwargs, phases=phases
        )
        for kind, kwargs in kinds.items()
    )
    np.testing.assert_array_equal(ours.reset(seed=8)[0], theirs.reset(seed=8)[0])
    scores = []
    for frame in range(1, 600):
        action = np.array([[0, 0, 0, 2, 3][frame % 5]])
        one, other = ours.step(action), theirs.step(action)
        for part, same in zip(one[:4], other[:4], strict=True):
            np.testing.assert_array_equal(part, same)
        assert ("final_obs" in one[4]) == ("final_obs" in other[4]) == (frame % 15 == 0)
        np.testing.assert_equal(without_absent(one[4]), without_absent(other[4]))
        if frame % 15 == 0:
            np.testing.assert_array_equal(one[4]["final_obs"][0], other[4]["final_obs"][0])
        scores.append(float(one[4]["score"][0]))
    assert 10 in scores


def without_absent(info):
    """The entries of at least one episode, except the final observations."""
    present = {k: v for k, v in info.items() if not k.startswith("_") and k != "final_obs"}
    return {
        k: without_absent(v) if isinstance(v, dict) else v
        for k, v in present.items()
        if np.any(info[f"_{k}"])
    }


def test_final_observations_are_those_of_ended_episodes_only():
    envs = gymnasium.make_vec(
        NAMES[1], num_envs=5, vectorization_mode="vector_entry_point", phases=(1, 0, 40),
        ends_at_choice=True,
    )  # fmt: skip
    envs.reset(seed=1)
    envs.action_space.seed(2)
    several = False
    for _ in range(300):
        _, _, ended, _, info = envs.step(envs.action_space.sample())
        assert ("final_obs" in info) == ended.any()
        if ended.any():
            final = np.array([last is not None for last in info["final_obs"]])
            for mask in (final, info["_final_obs"], info["_final_info"], ~info["_score"]):
                np.testing.assert_array_equal(mask, ended)
            several |= not ended.all()
    assert several


def test_a_vector_environment_renders_every_episode():
    envs = gymnasium.make_vec(
        NAMES[1], num_envs=3, vectorization_mode="vector_entry_point", render_mode="rgb_array",
        scale=2,
    )  # fmt: skip
    envs.reset(seed=1)
    pictures = envs.render()
    assert [picture.shape for picture in pictures] == [(14, 22, 3)] * 3
    assert any((pictures[0] != picture).any() for picture in pictures[1:])


def test_the_first_person_constants_are_valid_settings():
    env = gymnasium.make(NAMES[0], apple_reward=5.0, **FIRST_PERSON)
    match = env.unwrapped.match
    assert (match.phases, match.pads, match.horizon) == ((75, 450, 75), 4, 600)
    assert match.ends_at_choice


def test_an_unknown_render_mode_is_refused():
    with pytest.raises(ValueError, match="render_mode='rgb' is unknown: did you mean 'rgb_array'"):
        MatchEnv(render_mode="rgb")


@pytest.mark.parametrize(
    "words",
    [
        f"import gatecore.tasks.environments.gym, gymnasium; made = gymnasium.make({NAMES[1]!r})",
        f"import gymnasium; made = gymnasium.make('gatecore.tasks.environments.gym:{NAMES[1]}')",
        "import gymnasium; "
        f"made = gymnasium.make_vec('gatecore.tasks.environments.gym:{NAMES[1]}')",
    ],
)
def test_a_new_process_makes_an_environment_by_its_name(words):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{words}; print(made.spec.id)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == NAMES[1]


def test_other_environments_need_neither_gymnasium_nor_pillow():
    words = """
import sys
sys.modules["gymnasium"] = sys.modules["PIL"] = None
from gatecore.tasks.environments import animation, memory_chain, t_maze
from gatecore.tasks.environments import scripted_policies
from gatecore.tasks.environments.match import Match
print(scripted_policies.play(Match(2, phases=(1, 0, 9)), scripted_policies.perfect, 2, 0).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", words], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[10.0, 10.0]"


def test_lists_of_frames_start_anew_with_each_episode():
    """``render`` gives what came since the call before, or since the episode's start."""
    envs = gymnasium.make_vec("gatecore/ActiveMatch-v0", 2, render_mode="rgb_array_list",
                              phases=(2, 1, 2), scale=1)  # fmt: skip
    assert envs.render_mode == "rgb_array_list"
    envs.reset(seed=0)
    envs.step([0, 1])
    frames = envs.render()
    assert [len(each) for each in frames] == [2, 2]
    assert frames[0][0].shape == (7, 11, 3)
    one = MatchVectorEnv(2, render_mode="rgb_array", scale=1, level="active", phases=(2, 1, 2))
    one.reset(seed=0)
    one.step([0, 1])
    np.testing.assert_array_equal(frames[1][1], one.render()[1])
    assert envs.render() == ([], [])
    for _ in range(4):
        envs.step([0, 0])
    assert [len(each) for each in envs.render()] == [1, 1]  # of the next episodes
    text = MatchVectorEnv(1, render_mode="ansi_list")
    text.reset(seed=0)
    assert text.render()[0][0] == text.match.text(0)
