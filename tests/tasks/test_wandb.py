"""What `--wandb` hands to Weights & Biases, recorded; `make recipes` uses wandb itself."""

import json
import sys
import types

import numpy as np
import pytest
from click.testing import CliRunner

from gatecore.tasks import load_run
from gatecore.tasks.cli.commands import main
from tests.tasks.tiny import arguments


class Recorder(types.ModuleType):
    """Stands for wandb: records what it is told, and refuses what wandb refuses."""

    Error = type("Error", (Exception,), {})

    def __init__(self):
        super().__init__("wandb")
        self.began, self.logged, self.summary, self.ended = [], [], {}, []

    def init(self, **settings):
        if settings["project"] == "refused":
            raise self.Error("no API key configured")
        self.began.append(settings)
        return self

    def log(self, values, step=None):
        assert step is None or not self.logged or step >= (self.logged[-1][0] or 0)
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended.append(exit_code)

    @staticmethod
    def Histogram(values):
        return np.asarray(values)


@pytest.fixture
def wandb(monkeypatch):
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    return recorder


def run(*words):
    return CliRunner().invoke(main, ["train", *words], catch_exceptions=False)


def test_a_run_sends_its_config_its_metrics_and_its_gates(wandb, tmp_path):
    out = tmp_path / "copy"
    assert run("copying", "--wandb", "gates", *arguments("--out", str(out))).exit_code == 0
    (began,) = wandb.began
    recorded = json.loads((out / "config.json").read_text())
    assert (began["project"], began["name"]) == ("gates", "copy")
    assert began["config"]["steps"] == recorded["steps"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = {(line["step"], f"{line['split']}/loss"): line["loss"] for line in lines}
    sent = {(step, name): value for step, values in wandb.logged if step is not None
            for name, value in values.items() if name.endswith("/loss")}  # fmt: skip
    assert sent == expected
    gates = wandb.logged[-1][1]
    assert gates.keys() == {f"gates/{name}/{when}" for name in ("forget", "log10_timescale")
                            for when in ("before", "after")}  # fmt: skip
    value = load_run(out).gates("after").value
    assert gates["gates/forget/after"] == pytest.approx(value.ravel())
    assert (wandb.summary, wandb.ended) == ({"status": "finished"}, [0])


def test_a_resumed_run_is_the_same_run_there(wandb, tmp_path, monkeypatch):
    from gatecore.tasks.training.trainer import _Trainer

    step = _Trainer._step

    def interrupted(self):
        if self.state.step == 7:
            raise KeyboardInterrupt
        return step(self)

    words = ("copying", "--wandb", "gates", *arguments("--out", str(tmp_path / "copy")))
    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "_step", interrupted)
        assert run(*words).exit_code == 130
    wandb.logged.clear()  # the next process begins its own file
    assert run(*words, "--resume").exit_code == 0
    first, second = wandb.began
    assert first["id"] == second["id"]
    assert (first["resume"], wandb.ended) == ("allow", [1, 0])


def test_a_run_that_had_ended_begins_nothing(wandb, tmp_path):
    words = ("copying", "--wandb", "gates", *arguments("--out", str(tmp_path / "copy")))
    run(*words)
    assert run(*words, "--resume").exit_code == 0
    assert len(wandb.began) == 1


def test_each_of_several_mechanisms_is_a_run_of_its_own(wandb, tmp_path):
    words = arguments("--out", str(tmp_path), "--wandb", "gates", "--mechanism", "UR,U", steps=2)
    assert run("copying", *words).exit_code == 0
    assert len({began["id"] for began in wandb.began}) == 2


def test_a_refusal_is_an_error_before_training(wandb, tmp_path):
    words = arguments("--out", str(tmp_path / "copy"), "--wandb", "refused")
    result = run("copying", *words)
    assert result.exit_code == 2
    assert "no API key configured" in result.output


def test_a_missing_library_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    out = tmp_path / "run"
    result = run("copying", "--wandb", "gates", *arguments("--out", str(out)))
    assert (result.exit_code, result.output.count("Error:")) == (2, 1)
    assert "pip install -e '.[wandb]'" in result.output
    assert not out.exists()
