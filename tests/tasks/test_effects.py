"""A setting that has no effect on a model is refused, by a rule; old runs that have one load."""

import dataclasses
import itertools

import numpy as np
import pytest

from gatecore import Batch, Mechanism, ModelSpec, backends, mechanism
from gatecore._checks import unused
from gatecore.tasks import TASKS, Config, load_run, train
from gatecore.tasks.sweeps.config import SweepConfig, place
from gatecore.tasks.training.config import ConfigError
from tests.tasks.tiny import tiny


@pytest.mark.parametrize(
    ("task", "gates", "settings", "message"),
    [
        ("language", "UR", {"dropout": 0.3}, "dropout=0.3 has no effect on language: its head has "
         "no ReLU layer; remove it"),
        ("language", "UR", {"locked_dropout": True}, "locked_dropout=True has no effect on "
         "language: its embedding_dropout is 0; remove it"),
        ("copying", "UR", {"embedding_dropout": 0.3}, "setting='embedding_dropout' is unknown"),
        ("copying", "UR", {"dropout": 0.3}, "dropout=0.3 has no effect on copying"),
        ("programs", "UR", {"dropout": 0.3}, "dropout=0.3 has no effect on programs"),
        ("programs", "UR", {"level_steps": 7}, "level_steps=7 .* its curriculum has no levels"),
        ("pixels", "UR", {"content": "5"}, "content='5' has no effect on pixels: its images are in "
         "no files; remove it"),
        ("tmaze", "UR", {"channels": [8]}, r"channels=\(8,\) .* no images"),
        ("match", "UR", {"distractor": 0, "apples": 5.0}, "apples=5.0 .* has no frames"),
        ("cartpole", "U", {"core": "none"}, "mechanism='U' .* no gates"),
        ("cartpole", "UR", {"core": "none", "hidden_size": 3}, "hidden_size=3 .* no recurrent"),
        ("programs", "U", {"core": "rmc", "gate_style": "none"}, "mechanism='U' .* no gates"),
        ("copying", "UR", {"core": "gru", "zoneout": [0.5, 0]}, r"zoneout=\(0.5, 0.0\)"),
        ("copying", "U", {"mechanism.t_max": 5}, "mechanism.t_max=5 .* on U: .* not chrono"),
        ("copying", "UR", {"mechanism.downsize": 4}, "mechanism.downsize=4 .* on UR"),
        ("copying", "UM", {"mechanism.refine_bias": "opposed"}, "mechanism.refine_bias='opposed'"),
        ("copying", "O", {"mechanism.forget_bias": 5}, "mechanism.forget_bias=5 .* cumax"),
    ],
)  # fmt: skip
def test_a_setting_without_effect_is_refused_by_name(task, gates, settings, message):
    with pytest.raises(ConfigError, match=message):
        Config.of(task, gates, **settings)


@pytest.mark.parametrize(
    ("task", "gates", "settings", "message"),
    [
        ("forgetting", "R", {"mechanism.forget_bias": 3}, r"forget_bias=6\.0 of forgetting "
         "contradicts mechanism.forget_bias=3: set forget_bias alone"),
        ("forgetting", "R(forget_bias=1)", {}, "contradicts mechanism.forget_bias=1"),
        ("forgetting", mechanism("R", forget_bias=3.0), {}, "contradicts mechanism.forget_bias=3"),
        ("forgetting", "R", {"mechanism.initial": "uniform"}, r"forget_bias=6\.0 of forgetting has "
         "no effect on R: its initial bias is drawn"),
        ("copying", "C(t_max=8)", {"mechanism.t_max": 9}, "mechanism.t_max=9 contradicts t_max=8 "
         "of the mechanism: remove one"),
        ("copying", mechanism("UM", downsize=8), {"mechanism.downsize": 4}, "contradicts down"),
    ],
)  # fmt: skip
def test_two_values_of_one_thing_are_refused(task, gates, settings, message):
    with pytest.raises(ConfigError, match=message):
        Config.of(task, gates, **settings)


@pytest.mark.parametrize(
    ("task", "gates", "field", "value"),
    [
        ("copying", "UM", "downsize", 16),
        ("copying", "UM(downsize=8)", "downsize", 8),
        ("copying", "UM(downsize=1)", "downsize", 1),
        ("copying", "UM(forget_bias=1,downsize=2)", "downsize", 2),
        ("copying", mechanism("UM", downsize=8), "downsize", 8),
        ("copying", mechanism("UM", downsize=8, name="mine"), "downsize", 8),
        ("forgetting", "UR", "refine_bias", "neutral"),
        ("forgetting", "UR(refine_bias=uniform)", "refine_bias", "uniform"),
        ("forgetting", "R(forget_bias=6)", "forget_bias", 6),
    ],
)
def test_a_tasks_defaults_yield_to_the_fields_of_a_variant(task, gates, field, value):
    """Also to fields that are those of the name, if they are written; and in sweeps."""
    assert getattr(Config.of(task, gates).mechanism, field) == value
    (trial,), _ = SweepConfig.of(task, mechanisms=[gates]).trials()
    assert trial.config == Config.of(task, gates)


def test_settings_that_have_an_effect_are_accepted():
    assert Config.of("pixels", dropout=0.5).dropout == 0.5
    assert Config.of("programs", curriculum="naive", level_steps=7).task.level_steps == 7
    assert Config.of("copying", core="gru", zoneout=[0.5, 0.1]).zoneout == (0.5, 0.1)
    assert Config.of("copying", "C", **{"mechanism.t_max": 5}).mechanism.t_max == 5


@pytest.mark.parametrize("task", TASKS)
def test_every_preset_is_accepted_although_it_has_values_for_other_settings(task):
    for preset in TASKS[task].presets:
        assert Config.of(task, "R", preset).unused()


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("head", [(), (5,)])
@pytest.mark.parametrize(
    "change", [{"dropout": 0.5}, {"zoneout": (0.5, 0.0)}, {"zoneout": (0.0, 0.5)}, {"layers": 2}]
)
def test_what_a_model_ignores_is_what_is_called_unused(core, head, change):
    """A training step with the setting equals one without it exactly where it has no effect."""
    base = {"input": "dense", "input_size": 3, "output_size": 2, "hidden_size": 4}
    specs = [ModelSpec(**base, core=core, head=head, **more) for more in ({}, change)]
    rng = np.random.default_rng(0)
    batch = Batch(rng.standard_normal((6, 3, 3)), rng.integers(2, size=(6, 3)))
    learners = [backends.load("numpy").Learner(spec, seed=1, dtype="float64") for spec in specs]
    losses = [learner.step(batch, learning_rate=0.1)["loss"] for learner in learners]
    assert (losses[0] == losses[1]) == (next(iter(change)) in unused(specs[1]))


def test_what_initialization_ignores_is_what_is_called_unused():
    """The field changes no initial gate and no parameter's shape exactly where it is unused."""
    choices = {"activation": ("sigmoid", "cumax"), "initial": ("constant", "chrono", "uniform"),
               "auxiliary": ("none", "refine", "master")}  # fmt: skip
    changes = {"forget_bias": 3.0, "t_max": 9.0, "refine_bias": "opposed", "downsize": 2}
    for values in itertools.product(*choices.values()):
        try:
            one = Mechanism(name="one", **dict(zip(choices, values, strict=True)))
        except ValueError:
            continue  # cumax and a drawn bias
        for field, value in changes.items():
            other = dataclasses.replace(one, **{field: value})
            assert (_gates(one) == _gates(other)) == (field in unused(other)), (one, field)


def _gates(one):
    biases = one.biases("lstm", 8, 0)
    sides = [side for gate in one.gates(biases) for side in gate]
    return one.rows("lstm", 8), [np.round(side, 9).tolist() for side in sides]


def test_an_old_run_with_such_a_value_loads_and_resumes_but_starts_no_new_one(tmp_path):
    config = tiny()
    old = Config(**{**dict(config), "dropout": 0.3})  # not by `of`, which refuses it
    assert old.dropout == 0.3
    with pytest.raises(ConfigError, match=r"dropout=0\.3 has no effect on copying"):
        train(old, tmp_path / "new")
    assert not (tmp_path / "new").exists()

    class Old(Config):
        def check_effects(self):
            """As early versions: nothing is checked."""

    first = train(Old(**dict(old)), tmp_path / "old")
    assert load_run(tmp_path / "old").config.dropout == 0.3
    assert train(load_run(tmp_path / "old").config, tmp_path / "old", resume=True).summary
    resumed = train(config, tmp_path / "old", resume=True)  # the command without the setting
    assert resumed.summary == first.summary
    sweep = SweepConfig.of("copying", mechanisms="UR", out=tmp_path)
    trial = dataclasses.replace(sweep.trials()[0][0], config=config)
    assert place([trial], tmp_path) == {trial.name: tmp_path / "old"}


def test_a_sweep_over_such_a_setting_is_refused():
    sweep = SweepConfig.of("language", mechanisms="UR", set={"dropout": [0.1, 0.2]})
    with pytest.raises(ConfigError, match=r"dropout=0\.1 has no effect on language"):
        sweep.trials()


def test_names_of_custom_mechanisms_are_compared_with_the_defaults():
    assert Config.of("copying", mechanism("U", name="mine")).mechanism.name == "mine"
    with pytest.raises(ConfigError, match="t_max=7"):
        Config.of("copying", mechanism("U", name="mine", t_max=7))
