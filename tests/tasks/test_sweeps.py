"""The configuration of a sweep: axes, trials, names, folders, errors."""

import json
import re

import numpy as np
import pytest

from gatecore import MECHANISMS, mechanism
from gatecore.tasks import Config, SweepConfig, train
from gatecore.tasks.sweeps.config import place, read_toml
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run_folder import RunError
from tests.tasks.sweeping import tiny_sweep
from tests.tasks.tiny import tiny


def names(task="copying", **settings):
    trials, _ = SweepConfig.of(task, **settings).trials()
    return [trial.name for trial in trials]


def test_trials_are_all_combinations_seed_by_seed():
    assert names(mechanisms="U,UR", lr="5e-4,1e-3", seeds=2) == [
        "copying-U-lr0.0005-seed0", "copying-UR-lr0.0005-seed0",
        "copying-U-lr0.001-seed0", "copying-UR-lr0.001-seed0",
        "copying-U-lr0.0005-seed1", "copying-UR-lr0.0005-seed1",
        "copying-U-lr0.001-seed1", "copying-UR-lr0.001-seed1",
    ]  # fmt: skip


def test_a_trial_is_the_run_that_gatecore_train_makes_of_the_same_settings():
    sweep = SweepConfig.of(
        "copying", mechanisms="UM", lr=2e-3, seeds=[7], core="gru", steps=50, threads=1,
        set={"length": [30, 40], "mechanism.downsize": 8},
    )  # fmt: skip
    settings = {"learning_rate": 2e-3, "seed": 7, "core": "gru", "steps": 50, "threads": 1}
    expected = [
        Config.of("copying", "UM", length=length, **settings, **{"mechanism.downsize": 8})
        for length in (30, 40)
    ]
    assert [trial.config for trial in sweep.trials()[0]] == expected


def test_names_hold_the_settings_that_vary():
    assert names(mechanisms="-", lr=1e-3, set={"length": 30}) == ["copying-standard-seed0"]


def test_all_are_the_nine_mechanisms():
    assert names(mechanisms="all") == [f"copying-{name}-seed0" for name in MECHANISMS]


@pytest.mark.parametrize(
    ("seeds", "expected"),
    [(3, (0, 1, 2)), ("3", (0, 1, 2)), ("0,1,5", (0, 1, 5)), ([4], (4,)), ("5,", None)],
)
def test_seeds_are_a_number_or_a_list(seeds, expected):
    if expected is None:
        with pytest.raises(ConfigError, match="seeds"):
            SweepConfig.of("copying", seeds=seeds)
    else:
        assert SweepConfig.of("copying", seeds=seeds).seeds == expected


def test_values_in_names_are_valid_in_every_file_system():
    labels = names(mechanisms="U", core="lstm,gru", set={"zoneout": [[0, 0], [0.5, 0.05]]})
    assert labels == [
        "copying-U-zoneout=0,0-seed0", "copying-gru-U-zoneout=0,0-seed0",
        "copying-U-zoneout=0.5,0.05-seed0", "copying-gru-U-zoneout=0.5,0.05-seed0",
    ]  # fmt: skip
    assert all(re.fullmatch(r"[\w.,+=-]+", name, re.ASCII) for name in labels)


def test_all_leaves_out_mechanisms_that_a_task_cannot_use_with_a_reason():
    trials, left_out = SweepConfig.of("forgetting", mechanisms="all").trials()
    used = [trial.config.mechanism.name for trial in trials]
    assert used == ["standard", "R"]
    assert {*used, *(reason.partition(":")[0] for reason in left_out)} == set(MECHANISMS)
    assert all("cannot run forgetting" in reason for reason in left_out[:-3])


def test_each_model_is_trained_once():
    """In `forgetting` the biases are constant: C and U are standard, UR is R."""
    trials, left_out = SweepConfig.of("forgetting", mechanisms="U,C,UR,R", seeds=2).trials()
    assert [trial.name for trial in trials] == [
        f"forgetting-{name}-seed{seed}" for seed in (0, 1) for name in ("U", "UR")
    ]
    assert left_out == ["C: trains the model of U", "R: trains the model of UR"]
    assert len(SweepConfig.of("copying", mechanisms="U,C,UR,R", seeds=2).trials()[0]) == 8


TABLE_6A = "standard,C,C(t_max=8),C(t_max=11),OM,U,UR"


def test_a_mechanism_can_have_several_variants():
    """The seven rows of Table 6a."""
    trials = SweepConfig.of("language", mechanisms=TABLE_6A).trials()[0]
    names = [
        "standard", "C", "C-t_max=8", "C-t_max=11", "OM", "U", "UR"
    ]  # fmt: skip
    assert [trial.name for trial in trials] == [f"language-{name}-seed0" for name in names]
    assert [trial.config.mechanism.t_max for trial in trials[:4]] == ["hidden", "hidden", 8, 11]
    assert {trial.config.mechanism.name for trial in trials[1:4]} == {"C"}


def test_variants_are_text_mappings_or_values():
    variants = [
        "C( t_max = 8 )", {"name": "C", "t_max": 8}, mechanism("C", t_max=8),
    ]  # fmt: skip
    sweeps = [SweepConfig.of("copying", mechanisms=[one]) for one in variants]
    assert sweeps[0] == sweeps[1] == sweeps[2]
    assert sweeps[0].trials() == sweeps[1].trials() == sweeps[2].trials()
    assert SweepConfig.of("copying", mechanisms="C(t_max=none)").mechanisms[0].t_max is None
    two = SweepConfig.of("copying", mechanisms="U, UR(refine_bias=neutral, name=mine) ,C")
    assert [trial.name for trial in two.trials()[0]] == [
        "copying-U-seed0", "copying-mine-seed0", "copying-C-seed0"
    ]  # fmt: skip
    assert SweepConfig(**json.loads(two.model_dump_json())) == two


def test_names_of_variants_have_the_fields_that_are_written():
    assert names(mechanisms="UM,UM(downsize=1),UM(downsize=8)") == [
        "copying-UM-seed0", "copying-UM-downsize=1-seed0", "copying-UM-downsize=8-seed0",
    ]  # fmt: skip
    trials, left_out = SweepConfig.of("copying", mechanisms="UR,UR(refine_bias=uniform)").trials()
    assert [trial.gates for trial in trials] == ["UR"]
    assert left_out == ["UR-refine_bias=uniform: trains the model of UR"]


def test_names_of_variants_are_valid_in_every_file_system():
    odd = mechanism("C", name="../C:\\x", t_max=8.5)
    trials = SweepConfig.of("copying", mechanisms=[odd, "C(t_max=none)"]).trials()[0]
    assert all(re.fullmatch(r"[\w.,+=-]+", trial.name, re.ASCII) for trial in trials)


def test_a_variant_reuses_the_run_that_a_setting_gave_it(tmp_path):
    """Folders of sweeps made before variants: one for each value of the setting."""
    settings = {"set": {"mechanism.t_max": [8, 11]}, "mechanisms": "C"}
    for trial in tiny_sweep(tmp_path, **settings).trials()[0]:
        train(trial.config, tmp_path / trial.name)
    trials = tiny_sweep(tmp_path, mechanisms="C(t_max=8),C(t_max=11)").trials()[0]
    assert [path.name for path in place(trials, tmp_path).values()] == [
        "copying-C-mechanism.t_max=8-seed0", "copying-C-mechanism.t_max=11-seed0"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mechanisms": "U,OM"}, "OM: .*cannot run forgetting"),
        ({"mechanisms": "all", "set": {"lenght": [5]}}, "did you mean 'length'"),
        ({"mechanisms": "UU"}, "mechanism='UU' is unknown: did you mean 'U'"),
        ({"mechanisms": ""}, "mechanism='' is unknown"),
        ({"mechanisms": "C(t_max=8"}, r"'C\(t_max=8' should be NAME\(FIELD=VALUE"),
        ({"mechanisms": "C(t_max)"}, r"'C\(t_max\)' should be NAME\(FIELD=VALUE"),
        ({"mechanisms": "C(tmax=8)"}, "mechanism field='tmax' is unknown: did you mean 't_max'"),
        ({"mechanisms": "U,standard(t_max=8)"}, "mechanism.t_max=8 has no effect"),
        ({"mechanisms": []}, "mechanisms"),
        ({"mechanisms": ["U", 3]}, "mechanism must be a name or a Mechanism, got int"),
        ({"mechanisms": "U,U"}, "forgetting-U-seed0 given twice"),
        ({"lr": "1e-3,0.001"}, "forgetting-standard-lr0.001-seed0 given twice"),
        ({"lr": "fast"}, "lr.0='fast': input should be a valid number"),
        ({"lr": -1}, "lr.0=-1: input should be greater than 0"),
        ({"lr": float("inf")}, "lr.0=inf: input should be a finite number"),
        ({"seeds": 0}, "seeds=0: a number of seeds should be 1 to 10000"),
        ({"seeds": [-1]}, "seeds.0=-1"),
        ({"seeds": []}, "seeds="),
        ({"seeds": [True]}, "a list should hold numbers or names"),
        ({"lr": [1e-3, False]}, "a list should hold numbers or names"),
        ({"dask": ""}, "dask=''"),
        ({"seeds": True}, "seeds=True: input should not be true or false"),
        ({"core": "rnn"}, "core='rnn'"),
        ({"preset": "fast"}, "preset='fast' is unknown"),
        ({"backend": "pytorch"}, "backend='pytorch' is unknown"),
        ({"steps": 0}, "steps=0"),
        ({"workers": 0}, "workers=0"),
        ({"threads": "many"}, "threads='many'"),
        ({"speed": 3}, "key='speed' is unknown: did you mean 'seeds'"),
        ({"set": {"seed": [1]}}, "seed is set by the key seeds of a sweep"),
        ({"set": {"learning_rate": [1]}}, "learning_rate is set by the key lr"),
        ({"set": {"length": []}}, "set.length="),
        ({"set": 5}, "set=5: input should be a valid dictionary"),
        ({"set": {"length": ["a/b", "a_b"]}}, "length='a/b'"),
        ({"out": 5}, "out=5"),
    ],
)
def test_an_invalid_sweep_is_one_error(settings, message):
    with pytest.raises(ConfigError, match=message):
        SweepConfig.of("forgetting", **{"mechanisms": "standard", **settings}).trials()


def test_too_long_names_are_an_error():
    fields = ("clip_norm", "checkpoint_seconds", "dropout", "mechanism.forget_bias", "zoneout")
    values = {name: [0.25, 0.12345678901234567] for name in fields}
    values["zoneout"] = [[0, 0], [0.12345678901234567, 0.12345678901234567]]
    with pytest.raises(ConfigError, match="longer than 200 characters"):
        names("pixels", mechanisms="standard", lr=[1e-3, 0.0012345678901234567], set=values)


def test_more_combinations_than_anyone_trains_are_refused():
    many = {name: list(range(1, 1001)) for name in ("length", "log_every", "batch_size")}
    with pytest.raises(ConfigError, match="1,000,000,000 combinations are more than 10,000"):
        names(mechanisms="U", set=many)


def test_numpy_numbers_and_arrays_are_the_values_they_hold():
    of_numpy = SweepConfig.of(
        "copying", seeds=np.int64(3), lr=np.array([1e-3, 2e-3]), steps=np.int32(5),
        set={"hidden_size": np.array([8, 16]), "clip_norm": np.float64(0.5)},
    )  # fmt: skip
    plain = SweepConfig.of(
        "copying", seeds=3, lr=[1e-3, 2e-3], steps=5,
        set={"hidden_size": [8, 16], "clip_norm": 0.5},
    )  # fmt: skip
    assert of_numpy == plain
    assert SweepConfig.of("copying", seeds=np.arange(3)).seeds == (0, 1, 2)
    assert SweepConfig.of("copying", seeds=np.array(3)).seeds == (0, 1, 2)
    axes = SweepConfig.of("copying", core=np.array(["lstm", "gru"]), lr=np.float32(0.5),
                          mechanisms=np.array(["U", "UR"]))  # fmt: skip
    assert (axes.core, axes.lr, axes.mechanisms) == (("lstm", "gru"), (0.5,), ("U", "UR"))


def test_a_toml_file_has_the_same_keys(tmp_path):
    path = tmp_path / "sweep.toml"
    path.write_text(
        'task = "copying"\nmechanisms = ["U", "UR"]\nlr = [5e-4, 1e-3]\nseeds = 3\nsteps = 100\n'
        "[set]\nlength = [50, 100]\nzoneout = [[0.0, 0.1]]\n"
    )
    keys = read_toml(path)
    config = SweepConfig.of(keys.pop("task"), **keys)
    assert config == SweepConfig.of(
        "copying", mechanisms="U,UR", lr="5e-4,1e-3", seeds="0,1,2", steps=100,
        set={"length": [50, 100], "zoneout": [[0.0, 0.1]]},
    )  # fmt: skip
    assert len(config.trials()[0]) == 2 * 2 * 3 * 2


def test_the_config_of_a_sweep_survives_json():
    config = SweepConfig.of("copying", mechanisms="U", lr=1e-3, seeds=2, set={"length": [5, 6]})
    assert SweepConfig(**json.loads(config.model_dump_json())) == config


def test_a_run_of_the_same_config_is_reused_from_a_folder_of_any_name(tmp_path):
    train(tiny(mechanism="U", learning_rate=2e-3), tmp_path / "copying-U-seed0")
    trials, _ = tiny_sweep(tmp_path, lr=[1e-3, 2e-3]).trials()
    folders = place(trials, tmp_path)
    assert folders["copying-U-lr0.002-seed0"] == tmp_path / "copying-U-seed0"
    assert folders["copying-U-lr0.001-seed0"] == tmp_path / "copying-U-lr0.001-seed0"


def test_a_folder_with_another_run_is_an_error(tmp_path):
    train(tiny(mechanism="U", steps=3), tmp_path / "copying-U-seed0")
    trials, _ = tiny_sweep(tmp_path).trials()
    with pytest.raises(RunError, match=r"another config: steps \(3 there, 12 here\)"):
        place(trials, tmp_path)


def test_the_folder_of_a_run_cannot_be_that_of_a_sweep(tmp_path):
    train(tiny(steps=1), tmp_path)
    with pytest.raises(RunError, match="holds a run itself"):
        place(tiny_sweep(tmp_path).trials()[0], tmp_path)
