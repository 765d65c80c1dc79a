"""Agent tasks: runs, exact resumption, divergence, sweeps, reports, the command line."""

import json

import numpy as np
import pytest

from gatecore.tasks import Config, SweepConfig, load_run, sweep, train
from gatecore.tasks.reports import report
from gatecore.tasks.reports.summary import summarize
from gatecore.tasks.training.config import ConfigError
from tests.tasks.test_cli import run
from tests.tasks.test_trainer import Killed, die_at, remains

SIZES = {
    "hidden_size": 8, "features": 6, "heads": [5], "batch_size": 4, "steps": 6, "log_every": 2,
    "evaluate_every": 3, "checkpoint_every": 2, "validation_size": 6, "test_size": 8,
}  # fmt: skip
SHORT = {"explore": 3, "distractor": 4, "reward": 12, "growth": None}
SMALL = {"memory_slots": 5, "memory_width": 4, "memory_heads": 2}


def match(mechanism="UR", **settings):
    """Episodes of nineteen frames."""
    return Config.of("match", mechanism, **{**SIZES, **SHORT, **settings})


def test_a_run_of_an_agent_has_the_usual_summary(tmp_path):
    result = train(match(), tmp_path)
    assert result.status == "finished"
    assert set(result.summary["test"]) == {"score", "reward", "length"}
    assert result.summary["test"]["length"] == 3 + 4 + 12
    assert result.summary["baselines"]["perfect"]["score"] == 10.0
    assert result.gates("after").value.shape == (1, 8)
    steps, scores = result.curve("validation", "score")
    assert steps.tolist() == [0, 3, 6]
    assert result.summary["best"]["score"] == scores.max()
    assert {"loss", "score", "reward", "entropy", "value_error"} <= set(result.metrics[1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"unroll": 5},
        {"core": "gru", "level": "active", "apples": 5, "channels": [3]},
        {"core": "none", "hidden_size": 128, "unroll": 5},
        {"core": "rmc", "memory_slots": 2, "memory_heads": 2, "unroll": 5},
        {"core": "dnc", **SMALL, "unroll": 5},
        {"core": "rma", **SMALL, "unroll": 5},
    ],
)
def test_a_killed_run_resumes_to_the_same_result(tmp_path, settings):
    config = match(**settings)
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "broken", on_step=die_at(5))
    train(config, tmp_path / "broken", resume=True)
    assert remains(tmp_path / "broken") == remains(tmp_path / "whole")


@pytest.mark.parametrize("task", ["tmaze", "chain", "cartpole"])
def test_the_small_tasks_train_and_resume(tmp_path, task):
    config = Config.of(task, "U", **SIZES, unroll=7)
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "broken", on_step=die_at(5))
    train(config, tmp_path / "broken", resume=True)
    assert remains(tmp_path / "broken") == remains(tmp_path / "whole")


def test_a_diverging_agent_ends_with_its_last_finite_parameters(tmp_path):
    """Weights of a thousand give values of millions, far beyond any return."""
    result = train(match(learning_rate=1e3, clip_norm=None), tmp_path)
    assert result.status == "diverged"
    assert result.summary["test"] is None
    step = result.summary["step"]
    good = train(match(learning_rate=1e3, clip_norm=None, steps=step - 1), tmp_path / "good")
    assert good.status == "finished"
    diverged, last = (remains(folder)[0] for folder in (tmp_path, tmp_path / "good"))
    names = [name for name in last if name.startswith("parameters.")]
    assert names
    assert all(diverged[name] == last[name] for name in names)


def test_equal_seeds_give_equal_episodes_and_initial_weights():
    one, other = (match(name) for name in ("U", "standard"))
    first, second = (c.task.batch(c.seed, 3, 4) for c in (one, other))
    assert first.seed == second.seed
    observations = [g.environment.reset(np.random.default_rng(g.seed)) for g in (first, second)]
    assert np.array_equal(*observations)
    weights = [c.learner().parameters["encoder.1.weight"] for c in (one, other)]
    assert weights[0].equal(weights[1])


def test_the_discount_depends_on_the_apples():
    assert [match(apples=a).task.discount for a in (0, 1, 5)] == [0.92, 0.998, 0.92]
    paper = [Config.of("match", "UR", "paper", apples=a).task.discount for a in (0, 1, 5)]
    assert paper == [0.96, 0.998, 0.96]
    assert match(apples=1, discount=0.5).task.discount == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backend": "numpy"}, "backend='numpy': an agent is torch's: choose the torch backend"),
        ({"zoneout": [0.1, 0.1]}, "zoneout="),
        ({"dropout": 0.5}, "dropout=0.5"),
        ({"core": "lstmm"}, "core='lstmm'"),
        ({"pads": 5}, "pads=5"),
        ({"unroll": 0}, "unroll=0: input should be greater than or equal to 1"),
        ({"discount": 1.0}, "discount=1.0: input should be less than 1"),
    ],
)
def test_invalid_settings_are_refused(settings, message):
    with pytest.raises(ConfigError) as caught:
        match(**settings)
    assert message in str(caught.value)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    sets = {**SIZES, **SHORT}
    steps = sets.pop("steps")
    sets = {name: [value] for name, value in sets.items()}
    config = SweepConfig.of(
        "match", mechanisms="standard,UR", seeds=1, steps=steps, set=sets, out=folder, workers=1
    )
    return sweep(config)


def test_a_sweep_of_an_agent_runs_on_torch_by_default(swept):
    assert {result.status for result in swept.runs.values()} == {"finished"}
    assert {result.config.backend for result in swept.runs.values()} == {"torch"}


def test_a_report_shows_scores_and_does_not_count_perfect_as_memoryless(swept, tmp_path):
    folder = next(iter(swept.runs.values())).folder.parent
    out = report.write(report.read(folder), tmp_path)
    page = out.read_text(encoding="utf-8")
    group = json.loads((tmp_path / "results.json").read_text())["groups"][0]
    assert group["score"] == {"name": "score", "higher_is_better": True}
    assert set(group["baselines"]) == {"random walk", "always choosing", "perfect"}
    assert "always choosing" in page
    text = " ".join(summarize(report.read(folder).groups[0]))
    assert "perfect" not in text
    assert "score (higher is better)" in text


def test_settings_of_a_task_are_command_line_options(tmp_path):
    words = [word for name, value in SIZES.items()
             for word in ("--set", f"{name}={json.dumps(value)}")]  # fmt: skip
    result = run(
        "train", "match", "--level", "active", "--core", "lstm", "--mechanism", "UR", "--apples",
        "5", "--explore=3", "--distractor", "2", "--reward", "5", "--ends-at-choice", *words,
        "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    task = load_run(tmp_path / "run").config.task
    assert (task.level, task.apples, task.ends_at_choice) == ("active", 5.0, True)
    assert (task.explore, task.distractor, task.reward) == (3, 2, 5)
    assert "always choosing" in result.output


def test_the_active_level_trains_longer():
    passive, active = (Config.of("match", "UR", level=level) for level in ("passive", "active"))
    assert passive.task.growth < active.task.growth
    assert passive.steps < active.steps
    assert Config.of("match", "UR", level="active", channels=()).task.channels == ()
    assert Config.of("match", "UR", "paper", level="active").task.growth is None
    assert Config.of("match", "UR", level="active", steps=7).steps == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--levl", "active"), "No such option '--levl'. Did you mean '--level'?"),
        (("--level", "active", "--set", "level=passive"), "level is given twice"),
        (("active",), "unexpected extra argument (active)"),
    ],
)
def test_an_unknown_option_is_refused_with_a_suggestion(words, message):
    result = run("train", "match", *words)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")


def test_training_episodes_grow_linearly_and_held_out_ones_are_full_length():
    config = match(growth=[10, 20], distractor=40)
    task = config.task
    assert [task.frames(step) for step in (0, 10, 11, 15, 20, 99)] == [0, 0, 4, 20, 40, 40]
    lengths = [task.batch(0, step, 4).environment.phases for step in (0, 15, 30)]
    assert lengths == [(3, 0, 12), (3, 20, 12), (3, 40, 12)]
    assert {games.environment.phases for games in task.held_out(1, 0, 4)} == {(3, 40, 12)}
    assert match(growth=None, distractor=40).task.frames(0) == 40
    with pytest.raises(ConfigError, match="growth"):
        match(growth=[5, 5])
