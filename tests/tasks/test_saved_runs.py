"""Runs interrupted under the version before the refactor resume to that version's results."""

import json
import shutil

import numpy as np
import pytest

from gatecore.tasks import load_run, train
from gatecore.tasks.training import atomic_files
from gatecore.tasks.training.config import flat
from gatecore.tasks.training.provenance import environment
from tests.packaging.layout import ROOT
from tests.tasks.saved_runs import BACKENDS, CHECKPOINT, RUNS, SETTINGS, config, processor

SAVED = ROOT / "tests" / "data" / "runs-before"


@pytest.fixture(params=[f"{name}-{backend}" for backend in BACKENDS for name in RUNS])
def saved(request):
    """The folder of one saved run."""
    pytest.importorskip(request.param.rpartition("-")[2])
    return SAVED / request.param


@pytest.fixture
def resumed(saved, tmp_path):
    """The interrupted run, resumed to its end."""
    shutil.copytree(saved / "interrupted", tmp_path / "run")
    name, _, backend = saved.name.rpartition("-")
    return train(config(name, backend), tmp_path / "run", resume=True)


def results(folder):
    """All numbers that a run leaves, by name: weights, moments, metrics, gates, summary."""
    run = load_run(folder)
    tensors, _ = atomic_files.read_tensors(folder / "checkpoint.safetensors")
    lines = {f"{line['split']} {line['step']}": line for line in run.metrics}
    summary = {name: value for name, value in run.summary.items() if name != "seconds"}
    gates = {when: run.gates(when)._asdict() for when in ("before", "after")}
    values = flat({"metrics": lines, "summary": summary, "gates": gates}) | tensors
    infinite = {name: np.inf for name, value in values.items() if value is None}
    return {k: np.asarray(v) for k, v in (values | infinite).items() if type(v) is not str}


def differences(saved):
    """What determines the last bits of a run and is different on this machine."""
    backend = saved.name.rpartition("-")[2]
    recorded, here = load_run(saved / "finished").environment, environment(backend)
    instructions = json.loads((saved / "processor.json").read_text())
    names = [name for name in ("numpy", "backend") if recorded[name] != here[name]]
    if not set(recorded["blas"]) <= set(here["blas"]):
        names.append("blas")
    return names + ["processor"] * (instructions != processor(backend))


def test_an_interrupted_run_of_that_version_can_be_read(saved):
    run = load_run(saved / "interrupted")
    assert run.status == "unfinished"
    assert json.loads((saved / "interrupted/state.json").read_text())["step"] == CHECKPOINT
    assert run.metrics[-1]["step"] > CHECKPOINT


def test_a_resumed_run_has_the_results_of_the_unbroken_one(saved, resumed):
    assert (resumed.status, resumed.summary["step"]) == ("finished", SETTINGS["steps"])
    expected, resumed = results(saved / "finished"), results(resumed.folder)
    assert resumed.keys() == expected.keys()
    for name, value in resumed.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_a_resumed_run_has_the_bits_of_the_unbroken_one(saved, resumed):
    if names := differences(saved):
        pytest.skip(f"the last bits depend on what differs here: {', '.join(names)}")
    expected, resumed = results(saved / "finished"), results(resumed.folder)
    assert {name: value.tobytes() for name, value in resumed.items()} == {
        name: value.tobytes() for name, value in expected.items()
    }
