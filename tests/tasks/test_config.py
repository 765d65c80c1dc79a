"""Configurations: presets, validation, errors, differences."""

import dataclasses
import json

import pytest

from gatecore import mechanism
from gatecore.tasks import TASKS, Config
from gatecore.tasks.problems.base import Task
from gatecore.tasks.training.config import ConfigError

CHECKS = ("tmaze", "chain", "cartpole")  # of the agent: they are none of the paper's tasks


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_every_preset_is_a_valid_configuration(task, preset):
    if preset not in TASKS[task].presets:
        assert (task in CHECKS, preset) == (True, "paper")
        return
    config = Config.of(task, "R", preset)
    assert config.preset == preset
    assert config.clip_norm == (0.1 if task == "language" else 1.0)
    assert config.spec().hidden_size == config.hidden_size


@pytest.mark.parametrize(
    "name", ["standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR", "CM", "M", "CR"]
)
def test_a_configuration_survives_json(name):
    config = Config.of("copying", name, length=77, zoneout=[0.5, 0.05], clip_norm=None)
    assert Config.model_validate(json.loads(config.model_dump_json())) == config


def test_a_custom_mechanism_survives_json():
    custom = dataclasses.replace(mechanism("UR"), name="custom", refine_bias="neutral")
    config = Config.of("copying", custom)
    recorded = json.loads(config.model_dump_json())
    assert Config.model_validate(recorded).mechanism == custom
    del recorded["mechanism"]["tied"]  # as runs before this field recorded it
    assert Config.model_validate(recorded).mechanism == custom


def test_an_untied_mechanism_is_a_setting_and_survives_json():
    config = Config.of("copying", "UR", **{"mechanism.tied": False})
    assert config.mechanism == mechanism("UR", tied=False)
    assert Config.model_validate(json.loads(config.model_dump_json())) == config
    with pytest.raises(ConfigError, match="tied=False has no effect"):
        Config.of("copying", "UM", **{"mechanism.tied": False})


def test_names_of_settings_mean_one_thing():
    """Settings of the task and of the run share one namespace on the command line."""
    for task in TASKS.values():
        assert not task.model_fields.keys() & Config.model_fields.keys()


def test_master_gates_serve_sixteen_units_by_default():
    assert Config.of("copying", "UM").mechanism.downsize == 16
    assert Config.of("pixels", "OM", **{"mechanism.downsize": 4}).mechanism.downsize == 4
    assert Config.of("copying", "U", **{"mechanism.auxiliary": "master"}).mechanism.downsize == 16
    assert Config.of("copying", "UR").mechanism.downsize == 1


def test_settings_reach_task_run_and_mechanism():
    settings = {"length": 500, "hidden_size": 32, "mechanism.refine_bias": "uniform"}
    config = Config.of("copying", "UR", **settings)
    assert (config.task.length, config.hidden_size) == (500, 32)
    assert config.mechanism == mechanism("UR", refine_bias="uniform")


@pytest.mark.parametrize(
    ("task", "name", "settings", "message"),
    [
        ("copyng", "UR", {}, "task='copyng' is unknown: did you mean 'copying'"),
        ("copying", "URR", {}, "URR.*did you mean.*UR"),
        ("copying", "UR", {"lenght": 5}, "setting='lenght' is unknown: did you mean 'length'"),
        ("pixels", "UR", {"length": 5}, "setting='length' is unknown"),
        ("copying", "UR", {"mechanism.downsiz": 2}, "did you mean 'mechanism.downsize'"),
        ("copying", "UR", {"mechanism.name": "x"}, "setting='mechanism.name' is unknown"),
        ("copying", "UR", {"mechanism": "U"}, "unknown setting 'mechanism': use --mechanism"),
        ("copying", "UR", {"preset": "paper"}, "unknown setting 'preset': use --preset"),
        ("copying", "UR", {"task": "adding"}, "unknown setting 'task': name it first"),
        ("copying", "UR", {"cls": 1}, "setting='cls' is unknown"),
        (["copying"], "UR", {}, r"task=\['copying'\] is unknown"),
        ("copying", "UR", {"hidden_size": 10**30}, "hidden_size=.*less than or equal to 1000000"),
        ("copying", "UR", {"length": "abc"}, "length='abc': input should be a valid integer"),
        ("copying", "UR", {"length": True}, "length=True: input should not be true or false"),
        ("copying", "UR", {"length": 0}, "length=0: .*greater than or equal to 1"),
        ("copying", "UR", {"steps": 1.5}, "steps=1.5: input should be a valid integer"),
        ("copying", "UR", {"learning_rate": float("nan")}, "learning_rate=nan: .*finite"),
        ("copying", "UR", {"learning_rate": -1, "steps": 0}, "learning_rate=-1.*; steps=0"),
        ("copying", "UR", {"backend": "nympy"}, "backend='nympy' is unknown.*numpy"),
        ("copying", "UR", {"core": "lstmm"}, "core='lstmm': input should be 'lstm'"),
        ("copying", "UM", {"mechanism.downsize": 7}, "128 is not divisible by downsize=7"),
        ("copying", "UM", {"mechanism.downsize": "x"}, "downsize must be an integer.*'x'"),
        ("copying", "C", {"mechanism.t_max": 1.5}, "t_max must be above 2"),
        ("copying", "U", {"hidden_size": 1}, "hidden_size must be at least 2"),
        ("pixels", "UR", {"zoneout": [2, 0]}, "zoneout.0=2: .* less than or equal to 1"),
        ("pixels", "UR", {"permute": "perhaps"}, "permute='perhaps': .*boolean"),
    ],
)  # fmt: skip
def test_errors_name_the_setting_and_the_valid_values(task, name, settings, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Config.of(task, name, **settings)
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="preset='qick' is unknown: did you mean 'quick'"):
        Config.of("copying", "UR", "qick")


def test_differences_name_fields_of_every_depth():
    here = Config.of("copying", "UR", length=5)
    there = Config.of("copying", "UR", seed=3, **{"mechanism.refine_bias": "opposed"})
    assert here.differences(there) == [
        "task.length (50 there, 5 here)",
        "mechanism.refine_bias (opposed there, uniform here)",
        "seed (3 there, 0 here)",
    ]
    assert here.differences(Config.of("copying", "UR", length=5)) == []


def test_a_linear_schedule_falls_to_zero_after_the_last_step():
    config = Config.of("copying", "UR", steps=4, learning_rate=0.8, schedule="linear")
    assert [config.rate(step) for step in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0])
    assert Config.of("copying", "UR", learning_rate=0.8).rate(7) == 0.8


def test_docstrings_of_tasks_say_what_is_inferred_from_the_paper():
    for name, task in TASKS.items():
        assert issubclass(task, Task)
        assert name in CHECKS or "infer" in task.__doc__
