"""Event files for TensorBoard, read record by record."""

import json
import signal
import struct
import sys

import pytest
from click.testing import CliRunner

from gatecore.tasks import load_run
from gatecore.tasks.cli.commands import main
from tests.tasks.tiny import arguments

event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")


def run(*words):
    return CliRunner().invoke(main, ["train", *words], catch_exceptions=False)


def events(folder):
    """All events in a folder's files: records of a length, its checksum, data, their checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            yield event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
            start += 12 + length + 4


def scalars(folder):
    return {
        (value.tag, event.step): value.simple_value
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("simple_value")
    }


def histograms(folder):
    return {
        (value.tag, event.step): value.histo
        for event in events(folder)
        for value in event.summary.value
        if value.HasField("histo")
    }


def test_scalars_are_the_metrics_and_histograms_the_gates(tmp_path):
    out = tmp_path / "run"
    assert run("copying", "--tensorboard", *arguments("--out", str(out))).exit_code == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    expected = {
        (f"{line['split']}/{name}", line["step"]): line[name]
        for line in lines
        for name in ("loss", "accuracy", "gradient_norm")
        if name in line
    }
    assert scalars(out) == pytest.approx(expected, rel=1e-6)
    drawn = histograms(out)
    assert drawn.keys() == {
        (tag, step) for tag in ("gates/forget", "gates/log10_timescale") for step in (0, 12)
    }
    gate = load_run(out).gates("after")
    assert drawn["gates/forget", 12].num == 16
    assert drawn["gates/forget", 12].sum == pytest.approx(gate.value.sum(), rel=1e-5)


def test_event_files_do_not_change_the_run(tmp_path):
    for name, words in (("plain", ()), ("events", ("--tensorboard",))):
        run("copying", *arguments("--out", str(tmp_path / name)), *words)
    plain, with_events = (tmp_path / name / "metrics.jsonl" for name in ("plain", "events"))
    assert plain.read_text() == with_events.read_text()
    assert not list((tmp_path / "plain").glob("events*"))


def test_a_resumed_run_removes_the_events_that_it_repeats(tmp_path, monkeypatch):
    out = tmp_path / "run"
    from gatecore.tasks.training.trainer import _Trainer

    step = _Trainer._step

    def interrupted(self):
        if self.state.step == 7:
            signal.raise_signal(signal.SIGINT)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Trainer, "_step", interrupted)
        words = arguments("--out", str(out), "--tensorboard")
        assert run("copying", *words).exit_code == 130
    assert run("copying", *words, "--resume").exit_code == 0
    starts = [e.step for e in events(out) if e.session_log.status == e.session_log.START]
    assert starts == [0, 9]
    assert {step for tag, step in scalars(out) if tag == "train/loss"} == {3, 6, 9, 12}


def test_each_of_several_mechanisms_has_event_files(tmp_path):
    words = arguments("--out", str(tmp_path), "--tensorboard", "--mechanism", "UR,U", steps=2)
    assert run("copying", *words).exit_code == 0
    assert len(list(tmp_path.glob("*/events.out.tfevents.*"))) == 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_run_that_diverged_has_its_metrics(tmp_path):
    out = tmp_path / "run"
    words = arguments("--out", str(out), "--tensorboard", learning_rate="1e30")
    assert run("adding", *words).exit_code == 0
    assert ("validation/loss", 0) in scalars(out)


def test_a_missing_library_is_an_error_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    out = tmp_path / "run"
    result = run("copying", "--tensorboard", *arguments("--out", str(out)))
    assert (result.exit_code, result.output.count("Error:")) == (2, 1)
    assert "pip install -e '.[tensorboard]'" in result.output
    assert not out.exists()
