"""Runs of cores with a memory: from the configuration to the report."""

import dataclasses
import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed")

from gatecore.contracts.memory import Memory
from gatecore.tasks import Config, train
from gatecore.tasks.reports.aggregate import Trial
from gatecore.tasks.training.config import ConfigError
from gatecore.tasks.training.run import RunError, load_run

SMALL = dict(
    backend="torch", length=1, nesting=1, hidden_size=8, batch_size=4, steps=6, evaluate_every=3,
    checkpoint_every=3, log_every=1, validation_size=4, test_size=4,
)  # fmt: skip
SIZES = {
    "rmc": dict(memory_slots=3, memory_heads=2, gate_style="memory"),
    "dnc": dict(memory_slots=4, memory_width=3, memory_heads=2),
    "rma": dict(memory_slots=100, memory_width=4, memory_heads=2),
}
SHAPES = {"rmc": (3, 1), "dnc": (1, 8), "rma": (2, 8)}


def config(core, **changes):
    return Config.of("programs", "UR", core=core, **{**SMALL, **SIZES[core], **changes})


@pytest.mark.parametrize("core", SIZES)
def test_a_run_resumes_bit_for_bit_and_loads(core, tmp_path):
    train(config(core), tmp_path / "whole")
    stop = RuntimeError("stop")

    def interrupt(step, *_):
        if step == 4:
            raise stop

    with pytest.raises(RuntimeError, match="stop"):
        train(config(core), tmp_path / "part", on_step=interrupt)
    train(config(core), tmp_path / "part", resume=True)
    whole, part = (load_run(tmp_path / name) for name in ("whole", "part"))
    for when in ("before", "after"):
        for side, expected in zip(whole.gates(when), part.gates(when), strict=True):
            assert side.shape == SHAPES[core]
            assert np.array_equal(side, expected)
    summaries = [json.loads((tmp_path / n / "summary.json").read_text()) for n in ("whole", "part")]
    assert summaries[0]["test"] == summaries[1]["test"]
    assert Trial.of(whole, "whole").config.core == core


def test_settings_are_the_sizes_of_the_core():
    assert config("rmc").spec().memory == Memory(slots=3, heads=2, gate_style="memory", blocks=1)
    assert config("dnc").spec().memory == Memory(slots=4, width=3, heads=2)


def test_a_memory_core_selects_the_torch_backend():
    assert Config.of("programs", core="rmc").backend == "torch"


def test_the_paper_preset_has_the_papers_rmc():
    chosen = Config.of("programs", "UR", "paper", core="rmc", backend="torch")
    assert (chosen.hidden_size, chosen.steps, chosen.spec().gate_shape) == (512, 200_000, (4, 512))
    assert Config.of("programs", "UR", "paper").hidden_size == 1024


@pytest.mark.parametrize(
    ("core", "changes", "message"),
    [
        ("rmc", {"backend": "numpy"}, "backend='numpy': core='rmc' is torch's: choose the torch"),
        ("rmc", {"memory_heads": 3}, "hidden_size=8 is not divisible by memory_heads=3"),
        ("rmc", {"gate_style": "units"}, "gate_style='units'"),
        ("dnc", {"gate_style": "unit"}, "gate_style='unit' is none of core='dnc'"),
        ("dnc", {"zoneout": (0.1, 0.1)}, "core='dnc' has none"),
        ("rma", {"layers": 3}, "layers=3 is for core lstm, gru, minimal, mingru, not 'rma'"),
        (
            "dnc",
            {"core": "lstm"},
            "memory_slots, memory_width, memory_heads are for core rmc, dnc, rma, not 'lstm'",
        ),
        ("dnc", {"memory_slots": 0}, "memory_slots=0: input should be greater than or equal to 1"),
    ],
)
def test_errors_name_the_impossible_setting(core, changes, message):
    with pytest.raises(ConfigError, match=message):
        Config.of("programs", "UR", **{"core": core, **SMALL, **SIZES[core], **changes})


def test_gates_of_another_shape_raise(tmp_path):
    train(config("rmc", steps=3), tmp_path / "run")
    run = load_run(tmp_path / "run")
    Trial.of(run, "run")
    other = dataclasses.replace(run, config=config("rmc", steps=3, memory_slots=4))
    with pytest.raises(RunError, match=r"should be floats \(4, 1\)"):
        Trial.of(other, "run")
