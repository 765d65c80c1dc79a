"""Presets as `gatecore train TASK … --dry-run` prints them, against the paper's Appendix D."""

import json

import pytest
from click.testing import CliRunner

from gatecore.tasks import TASKS, Config
from gatecore.tasks.cli.commands import main
from gatecore.tasks.sweeps.config import SweepConfig
from gatecore.tasks.training.config import ConfigError, flat


def dry_run(*words, mechanism="UR"):
    result = CliRunner().invoke(main, ["train", *words, "--mechanism", mechanism, "--dry-run"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


MNIST = ("pixels", "--set", "data=mnist", "--set", "path=x")
CIFAR = ("pixels", "--set", "data=cifar10", "--set", "path=x")
ADAM = {"schedule": "constant", "zoneout": [0.0, 0.0], "dropout": 0.0, "two_biases": False}
D1 = ADAM | {"layers": 1, "hidden_size": 256, "learning_rate": 1e-3, "clip_norm": 1.0,
             "core": "lstm"}  # fmt: skip
D2 = ADAM | {"layers": 1, "batch_size": 50, "clip_norm": 1.0}
TABLE2, ZONEOUT = D2 | {"hidden_size": 512, "learning_rate": 1e-3}, {"dropout": 0.5}
RL = {"learning_rate": 2e-4, "clip_norm": 1.0, "task.explore": 75, "task.distractor": 450,
      "task.reward": 75, "task.ends_at_choice": True, "task.pads": 4, "task.wrong": 1.0,
      "task.betas": [0.0, 0.95], "task.value_cost": 0.2, "task.entropy_cost": 0.01,
      "task.channels": [16, 32], "task.features": 500, "task.heads": [200]}  # fmt: skip
EPOCHS = {"mnist": 150 * 50_000 // 50, "cifar10": 100 * 45_000 // 50}  # less the validation images

PAPER = [  # the source, the command, the mechanism, the settings that the paper states
    ("D.1", ("copying",), "UR", D1 | {"task.length": 500}),
    ("D.1", ("adding",), "UR", D1 | {"task.length": 2000}),
    ("D, downsize", ("copying",), "UM", D1 | {"mechanism.downsize": 16}),
    ("E.1", ("forgetting",), "standard", {"task.length": 500, "hidden_size": 64, "steps": 10_000,
     "learning_rate": 1e-4, "mechanism.forget_bias": 6.0, "mechanism.initial": "constant"}),
    ("D.2, Table 2", MNIST, "UR", TABLE2 | {"core": "lstm", "steps": EPOCHS["mnist"]}),
    ("D.2, Table 2", CIFAR, "standard", TABLE2 | {"core": "lstm", "steps": EPOCHS["cifar10"]}),
    ("D.2, Table 2", CIFAR, "OM", TABLE2 | {"mechanism.downsize": 16}),
    ("D.2, Table 2", (*MNIST, "--core", "gru"), "UR", TABLE2 | {"learning_rate": 5e-4}),
    ("D.2, Table 2", (*CIFAR, "--core", "gru"), "standard", TABLE2 | {"learning_rate": 5e-4}),
    ("D.3", ("language",), "UM", ADAM | {"hidden_size": 3072, "batch_size": 128, "task.bptt": 128,
     "learning_rate": 1e-3, "clip_norm": 0.1, "mechanism.downsize": 32}),
    ("D.4, LSTM", ("programs",), "UM", {"hidden_size": 1024, "batch_size": 128, "steps": 500_000,
     "layers": 1, "learning_rate": 1e-3, "task.length": 9, "task.nesting": 4,
     "task.curriculum": "mix", "mechanism.downsize": 32}),
    ("D.4, RMC", ("programs", "--core", "rmc"), "UR", {"hidden_size": 512, "steps": 200_000,
     "batch_size": 128, "task.curriculum": "mix"}),
    ("Figure 7", ("match",), "UR", RL | {"task.discount": 0.96, "task.apples": 0.0}),
    ("Figure 8", ("match", "--apples", "1"), "UR", RL | {"task.discount": 0.998}),
    ("Figure 10", ("match", "--apples", "5"), "UR", RL | {"task.discount": 0.96}),
]  # fmt: skip
TABLE3 = [  # the mechanism, the core, and the units for MNIST and CIFAR-10
    ("standard", "lstm", 512, 1024),
    ("UR", "lstm", 1024, 2048),
    ("UR", "gru", 1024, 2048),
]


@pytest.mark.parametrize(("source", "command", "mechanism", "expected"), PAPER)
def test_the_paper_preset_has_what_the_paper_states(source, command, mechanism, expected):
    printed = flat(dry_run(*command, "--preset", "paper", mechanism=mechanism))
    assert {name: printed[name] for name in expected} == expected, source


@pytest.mark.parametrize("preset", ["table3", "table3-zoneout"])
@pytest.mark.parametrize(("mechanism", "core", "mnist", "cifar"), TABLE3)
def test_the_presets_of_table_3_have_its_units_and_zoneout(preset, mechanism, core, mnist, cifar):
    zoneout = {"lstm": [0.5, 0.05], "gru": [0.0, 0.1]}[core] if "zoneout" in preset else [0.0, 0.0]
    rate = {"lstm": 1e-3, "gru": 5e-4}[core]
    for command, units in ((MNIST, mnist), (CIFAR, cifar)):
        printed = dry_run(*command, "--core", core, "--preset", preset, mechanism=mechanism)
        values = printed["hidden_size"], printed["learning_rate"], printed["zoneout"]
        assert values == (units, rate, zoneout)
        assert printed["dropout"] == (0.5 if "zoneout" in preset else 0.0)
        assert printed["steps"] == EPOCHS[printed["task"]["data"]]


@pytest.mark.parametrize("task", TASKS)
def test_a_dry_run_prints_the_complete_configuration_and_trains_nothing(
    task, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    printed = dry_run(task, "--steps", "7", mechanism="R")
    assert Config.model_validate(printed) == Config.of(task, "R", steps=7)
    assert printed.keys() == Config.model_fields.keys()
    assert not list(tmp_path.iterdir())


def test_the_sweep_of_appendix_d3_is_expressible():
    grid = {"layers": [1, 2], "embedding_dropout": [0.0, 0.1, 0.2, 0.3],
            "layer_norm": [True, False], "tied": [True, False]}  # fmt: skip
    sweep = SweepConfig.of("language", mechanisms="UR", preset="paper", set=grid)
    specs = [trial.config.spec() for trial in sweep.trials()[0]]
    assert len({(s.layers, s.embedding_dropout, s.layer_norm, s.tied) for s in specs}) == 32
    assert {s.hidden_size for s in specs} == {3072}


def test_a_dry_run_of_several_mechanisms_prints_a_list(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed = dry_run("copying", mechanism="standard,UR")
    assert [one["mechanism"]["name"] for one in printed] == ["standard", "UR"]


def test_a_dry_run_refuses_what_a_run_refuses():
    result = CliRunner().invoke(main, ["train", "copying", "--dropout", "0.3", "--dry-run"])
    assert result.exit_code == 2
    assert "dropout=0.3 has no effect on copying" in " ".join(result.output.split())


def test_the_presets_units_yield_to_the_users():
    small = Config.of("pixels", "standard", "table3", hidden_size=64, learning_rate=1e-2)
    assert (small.hidden_size, small.learning_rate) == (64, 1e-2)


def test_two_biases_are_a_setting_of_any_run_whose_model_has_layers():
    assert Config.of("copying", two_biases=True).spec().two_biases
    with pytest.raises(ConfigError, match="two_biases=True: an agent has no two biases"):
        Config.of("match", two_biases=True)
    with pytest.raises(ConfigError, match="two_biases=True: core='dnc' has one bias"):
        Config.of("programs", core="dnc", two_biases=True)


@pytest.mark.parametrize("task", TASKS)
def test_layer_norm_is_a_setting_of_a_model_with_layers(task):
    printed = dry_run(task, "--set", "layer_norm=true", mechanism="R")
    assert printed["layer_norm"] is True
    assert Config.model_validate(printed).spec().layer_norm
    assert Config.of(task).spec().layer_norm is False


def test_layer_norm_is_refused_where_a_model_has_none():
    with pytest.raises(ConfigError, match=r"layer_norm=True is for core .*, not 'none'"):
        Config.of("cartpole", "standard", core="none", layer_norm=True)
    with pytest.raises(ConfigError, match="layer_norm=True is for core lstm, gru, minimal"):
        Config.of("programs", core="dnc", layer_norm=True)


def test_a_model_under_two_names_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "forgetting", "--mechanism", "standard,C,R,U", "--dry-run"]
    result = CliRunner().invoke(main, words)
    assert [one["mechanism"]["name"] for one in json.loads(result.stdout)] == ["standard", "R"]
    assert "left out: U: trains the model of standard" in result.stderr


@pytest.mark.parametrize("task", TASKS)
def test_residual_blocks_are_a_setting_of_a_model_with_layers(task):
    settings = ("--set", "residual=true", "--set", "candidate=tanh", "--core", "mingru")
    printed = dry_run(task, *settings, mechanism="R")
    assert (printed["residual"], printed["candidate"]) == (True, "tanh")
    spec = Config.model_validate(printed).spec()
    assert spec.residual
    assert spec.candidate == "tanh"
    assert Config.of(task).spec().residual is False


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (
            "cartpole",
            {"core": "none", "residual": True},
            "residual=True is for core .*, not 'none'",
        ),
        (
            "programs",
            {"core": "dnc", "residual": True},
            "residual=True is for core lstm, gru, mini",
        ),
        ("copying", {"candidate": "tanh"}, "candidate='tanh' is for core mingru, not 'lstm'"),
        ("copying", {"candidate": "linear"}, "candidate='linear' is for core mingru, not 'lstm'"),
        (
            "copying",
            {"core": "mingru", "candidate": "relu"},
            "candidate='relu': .*'linear' or 'tanh",
        ),
        ("copying", {"residual": "maybe"}, "residual='maybe': input should be a valid boolean"),
    ],
)
def test_they_are_refused_where_they_have_no_meaning(task, settings, message):
    with pytest.raises(ConfigError, match=message):
        Config.of(task, "standard", **settings)


def test_a_sweep_varies_the_blocks_and_the_candidate():
    grid = {"residual": [False, True], "candidate": ["linear", "tanh"]}
    trials = SweepConfig.of("copying", mechanisms="UR", core="mingru", set=grid).trials()[0]
    specs = {(trial.config.spec().residual, trial.config.spec().candidate) for trial in trials}
    assert specs == {(False, "linear"), (False, "tanh"), (True, "linear"), (True, "tanh")}
