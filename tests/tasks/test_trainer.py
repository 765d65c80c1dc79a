"""The training loop: exact resumption, clean stops, divergence, equal data for all mechanisms."""

import json
import shutil
import signal
import threading

import numpy as np
import pytest
import safetensors.numpy

from gatecore import ModelSpec
from gatecore.tasks import load_run, train
from gatecore.tasks.training import atomic_files, trainer
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.signals import Interrupted
from tests.tasks.tiny import tiny


class Killed(BaseException):
    """A death that no code of the library expects."""


def die_at(step):
    def on_step(done, _):
        if done == step:
            raise Killed

    return on_step


def stop_at(step, signum):
    return lambda done, _: signal.raise_signal(signum) if done == step else None


def remains(folder):
    """All results of a run, except its timing."""
    tensors = safetensors.numpy.load_file(folder / "checkpoint.safetensors")
    summary = json.loads((folder / "summary.json").read_text())
    del summary["seconds"], summary["sha256"]
    return (
        {name: tensor.tobytes() for name, tensor in tensors.items()},
        (folder / "metrics.jsonl").read_bytes(),
        (folder / "gates.safetensors").read_bytes(),
        summary,
    )


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    train(tiny(dropout=0.0), folder)
    return remains(folder)


@pytest.mark.parametrize("step", [1, 3, 4, 5, 9, 12])
def test_a_run_that_died_continues_to_the_same_result(tmp_path, unbroken, step):
    """Checkpoints are at 4, 8, 12: before the first, at one, and in between."""
    with pytest.raises(Killed):
        train(tiny(), tmp_path, on_step=die_at(step))
    assert load_run(tmp_path).status == "unfinished"
    train(tiny(), tmp_path, resume=True)
    assert remains(tmp_path) == unbroken


def test_a_run_that_died_twice_and_truncated_a_line_continues_to_the_same_result(
    tmp_path, unbroken
):
    for step in (6, 10):
        with pytest.raises(Killed):
            train(tiny(), tmp_path, resume=True, on_step=die_at(step))
        with open(tmp_path / "metrics.jsonl", "a") as stream:
            stream.write('{"step": 7, "spl')
    train(tiny(), tmp_path, resume=True)
    assert remains(tmp_path) == unbroken


@pytest.mark.parametrize(
    ("task", "settings"),
    [
        ("pixels", {"dropout": 0.5, "zoneout": [0.5, 0.05]}),
        ("adding", {"core": "gru", "layers": 2}),
        ("copying", {"core": "minimal", "dtype": "float64"}),
    ],
)
def test_random_regularisers_and_other_cores_resume_exactly(tmp_path, task, settings):
    config = tiny(task, **settings)
    train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "broken", on_step=die_at(7))
    train(config, tmp_path / "broken", resume=True)
    assert remains(tmp_path / "broken") == remains(tmp_path / "whole")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_with_a_checkpoint(tmp_path, unbroken, signum):
    before = signal.getsignal(signum)
    with pytest.raises(
        Interrupted, match="stopped at step 7 of 12; the checkpoint is in"
    ) as caught:
        train(tiny(), tmp_path, on_step=stop_at(7, signum))
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 7
    train(tiny(), tmp_path, resume=True)
    assert remains(tmp_path) == unbroken


def test_a_second_signal_does_not_wait(tmp_path):
    def twice(done, _):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny(), tmp_path, on_step=twice)


def test_a_run_trains_outside_the_main_thread(tmp_path):
    """Where signal handlers cannot be set."""
    runs = []
    thread = threading.Thread(target=lambda: runs.append(train(tiny(), tmp_path)))
    thread.start()
    thread.join()
    assert [run.status for run in runs] == ["finished"]


def test_a_finished_run_is_returned_and_not_trained_again(tmp_path):
    train(tiny(), tmp_path)
    before = remains(tmp_path)
    run = train(tiny(), tmp_path, resume=True, on_step=lambda *_: pytest.fail("it trained"))
    assert run.status == "finished"
    assert remains(tmp_path) == before


def test_resuming_with_another_config_names_the_difference(tmp_path):
    train(tiny(), tmp_path)
    with pytest.raises(RunError, match=r"another config: steps \(12 there, 13 here\)"):
        train(tiny(steps=13), tmp_path, resume=True)


def interrupted(folder, **settings):
    """A run that died at step 9: the path, tensors and metadata of its checkpoint of step 8."""
    with pytest.raises(Killed):
        train(tiny(**settings), folder, on_step=die_at(9))
    path = folder / "checkpoint.safetensors"
    return path, *atomic_files.read_tensors(path)


def test_a_truncated_checkpoint_is_an_error(tmp_path):
    path, *_ = interrupted(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(RunError, match=r"checkpoint\.safetensors cannot be read"):
        train(tiny(), tmp_path, resume=True)


def test_a_file_of_another_format_is_no_checkpoint(tmp_path):
    path, *_ = interrupted(tmp_path)
    path.write_bytes(b"PK\x03\x04 a zip file, say")
    with pytest.raises(RunError, match=r"checkpoint\.safetensors cannot be read"):
        train(tiny(), tmp_path, resume=True)


def test_tensors_of_another_program_are_no_checkpoint(tmp_path):
    path, tensors, _ = interrupted(tmp_path)
    path.write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(RunError, match=r"checkpoint\.safetensors was not written by this version"):
        train(tiny(), tmp_path, resume=True)


def test_a_checkpoint_with_one_changed_bit_is_an_error(tmp_path):
    path, *_ = interrupted(tmp_path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors was changed or damaged"):
        train(tiny(), tmp_path, resume=True)


def test_the_checkpoint_of_another_seed_is_an_error(tmp_path):
    interrupted(tmp_path / "mine")
    other, *_ = interrupted(tmp_path / "other", seed=1)
    shutil.copy(other, tmp_path / "mine")
    with pytest.raises(RunError, match=r"checkpoint\.safetensors is of another run"):
        train(tiny(), tmp_path / "mine", resume=True)


def test_a_checkpoint_that_lacks_tensors_is_an_error(tmp_path):
    path, tensors, about = interrupted(tmp_path)
    tensors.popitem()
    atomic_files.write_tensors(path, tensors, about)
    with pytest.raises(RunError, match=r"checkpoint\.safetensors belongs to another model"):
        train(tiny(), tmp_path, resume=True)


def test_metrics_that_lack_lines_from_before_the_checkpoint_are_an_error(tmp_path):
    interrupted(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(RunError, match=r"metrics\.jsonl lacks some of the 4 lines"):
        train(tiny(), tmp_path, resume=True)


def test_checkpoints_are_written_by_time_as_well(tmp_path):
    steps = []

    def look(step, _):
        if (tmp_path / "state.json").exists():
            steps.append((step, json.loads((tmp_path / "state.json").read_text())["step"]))

    train(tiny(checkpoint_every=1000, checkpoint_seconds=1e-9), tmp_path, on_step=look)
    assert steps == [(step, step) for step in range(1, 13)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate "
                     "memory: you tried to allocate 4000000000000 bytes."),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 4000 bytes."),
    ],
)  # fmt: skip
def test_a_lack_of_memory_is_the_same_error_in_every_framework(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("gatecore.backends.numpy.Learner.step", fail)
    with pytest.raises(RunError, match="not enough memory: choose smaller sizes than hidden_size"):
        train(tiny(), tmp_path)


def test_other_errors_of_a_framework_are_raised_unchanged(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr("gatecore.backends.numpy.Learner.step", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        train(tiny(), tmp_path)


@pytest.mark.parametrize(
    "state",
    [
        [],
        {"step": "eight"},
        {"step": 8, "speed": 1},
        {"step": 8, "recent": [1]},
        {"step": 8, "best": 0.5},
        {"step": 8, "untrained": None, "seconds": None},
    ],
)
def test_a_state_of_wrong_types_is_an_error(tmp_path, state):
    with pytest.raises(Killed):
        train(tiny(), tmp_path, on_step=die_at(9))
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = atomic_files.read_tensors(path)
    atomic_files.write_tensors(path, tensors, {**about, "state": state})
    with pytest.raises(RunError, match=r"checkpoint\.safetensors has an invalid state"):
        train(tiny(), tmp_path, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": -1}, "its step is -1"),
        ({"step": 13}, "its step is 13"),
        ({"best": {"step": 5.0}}, "its best validation has no score"),
    ],
)
def test_a_state_that_no_run_has_is_an_error(tmp_path, change, message):
    with pytest.raises(Killed):
        train(tiny(), tmp_path, on_step=die_at(9))
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = atomic_files.read_tensors(path)
    atomic_files.write_tensors(path, tensors, {**about, "state": about["state"] | change})
    with pytest.raises(RunError, match=rf"belongs to another model: {message}"):
        train(tiny(), tmp_path, resume=True)


@pytest.mark.parametrize("change", [lambda v: -1 - abs(v), lambda v: v > 0, lambda v: v[..., None]])
def test_tensors_of_another_kind_are_an_error(tmp_path, change):
    with pytest.raises(Killed):
        train(tiny(), tmp_path, on_step=die_at(9))
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = atomic_files.read_tensors(path)
    (count,) = [name for name, value in tensors.items() if value.dtype.kind == "i"]
    atomic_files.write_tensors(path, tensors | {count: change(tensors[count])}, about)
    with pytest.raises(RunError, match="belongs to another model"):
        train(tiny(), tmp_path, resume=True)


def test_a_model_too_large_for_the_memory_writes_no_folder(tmp_path, monkeypatch):
    """The error is NumPy's; it is raised here, since some systems promise any amount of memory."""

    def fail(*_):
        raise MemoryError

    monkeypatch.setattr(ModelSpec, "initial", fail)
    message = "choose smaller sizes than hidden_size=1000000, layers=1, .*length=8"
    with pytest.raises(RunError, match=message):
        train(tiny(hidden_size=1_000_000), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("rank", "processes"), [("1", "2"), ("1", None), ("x", "2"), ("", "")])
def test_a_backend_that_shares_no_batches_ignores_the_variables_of_torchrun(
    tmp_path, monkeypatch, rank, processes
):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("WORLD_SIZE", processes)
    assert train(tiny(), tmp_path / "run").folder == tmp_path / "run"


@pytest.mark.parametrize(
    ("rank", "processes", "writes"),
    [("0", "2", True), ("1", "2", False), ("1", "1", True), ("1", "", True), ("x", "2", True)],
)
def test_of_processes_that_share_batches_the_first_alone_writes_the_run(
    tmp_path, monkeypatch, rank, processes, writes
):
    monkeypatch.setattr(trainer, "SHARING", ("numpy",))
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", processes)
    train(tiny(), tmp_path / "run")
    assert (tmp_path / "run").exists() == writes


def test_an_easy_first_batch_is_no_divergence(tmp_path, monkeypatch):
    """Single sequences differ in loss by orders of magnitude; the held-out ones do not."""
    seen = []
    config = tiny("adding", batch_size=1, steps=40, seed=1, validation_size=64)
    run = train(config, tmp_path, on_step=lambda _, loss: seen.append(loss))
    assert max(seen) > trainer.EXPLOSION * min(seen)
    assert run.status == "finished"
    first = next(line["loss"] for line in run.metrics if line["split"] == "validation")
    assert json.loads((tmp_path / "state.json").read_text())["untrained"] == first


@pytest.mark.parametrize("rate", [1e4, 1e30])
def test_divergence_ends_a_run_and_is_recorded(tmp_path, rate):
    """A loss that explodes, and one that becomes NaN."""
    config = tiny("adding", learning_rate=rate, steps=50)
    run = train(config, tmp_path)
    assert run.status == "diverged"
    assert run.summary["step"] < 50
    assert run.summary["test"] is None
    assert run.metrics[-1]["step"] == run.summary["step"]
    assert train(config, tmp_path, resume=True).status == "diverged"


def test_all_mechanisms_of_a_seed_see_the_same_data(tmp_path, monkeypatch):
    from gatecore.tasks.problems.copying import Copying

    seen = []
    original = Copying.batch

    def watch(self, seed, step, size):
        batch = original(self, seed, step, size)
        seen.append((seed, step, batch.inputs.tobytes()))
        return batch

    monkeypatch.setattr(Copying, "batch", watch)
    for mechanism in ("standard", "UM"):
        train(tiny(mechanism=mechanism), tmp_path / mechanism)
    assert seen[:12] == seen[12:]
    assert len(set(seen[:12])) == 12


def test_lines_of_the_log_are_means_over_their_steps(tmp_path):
    losses = []
    run = train(tiny(), tmp_path, on_step=lambda _, loss: losses.append(loss))
    logged = [m["loss"] for m in run.metrics if m["split"] == "train"]
    np.testing.assert_allclose(logged, np.reshape(losses, (4, 3)).mean(axis=1), rtol=1e-12)


def test_the_summary_holds_the_best_validation_with_its_step(tmp_path):
    run = train(tiny("pixels", steps=20), tmp_path)
    validations = [m for m in run.metrics if m["split"] == "validation"]
    best = max(validations, key=lambda m: (m["accuracy"], -m["step"]))
    assert run.summary["best"] == {name: best[name] for name in ("step", "loss", "accuracy")}


def test_copy_is_learned(tmp_path):
    """A short Copy task is nearly solved by the whole loop."""
    config = tiny(
        length=2, hidden_size=48, batch_size=32, steps=500, learning_rate=1e-2,
        evaluate_every=250, checkpoint_every=500, test_size=64,
    )  # fmt: skip
    assert train(config, tmp_path).summary["test"]["loss"] < 0.5 * np.log(8)
