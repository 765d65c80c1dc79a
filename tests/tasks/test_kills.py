"""Runs survive SIGKILL at any moment, a full disk, and two processes in one folder."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from gatecore.tasks import load_run, train
from gatecore.tasks.training import folder_lock
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.folder_lock import Busy
from tests.tasks.killing import config
from tests.tasks.test_trainer import remains
from tests.tasks.tiny import arguments, tiny


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The results of an undisturbed run, by backend."""
    by_backend = {}

    def run(backend):
        if backend not in by_backend:
            folder = tmp_path_factory.mktemp(backend)
            train(config(backend), folder)
            by_backend[backend] = remains(folder)
        return by_backend[backend]

    return run


def kill(*words):
    """The number of processes that died while they trained a run."""
    command = [sys.executable, "-m", "tests.tasks.killing", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.parametrize(("backend", "kills"), [("numpy", 25), ("torch", 10)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tmp_path, unbroken, backend, kills):
    """About half of its time is spent in writing files."""
    pytest.importorskip(backend)
    assert kill(backend, tmp_path / "run", "at-random", kills, 1) >= 3
    assert remains(tmp_path / "run") == unbroken(backend)


def test_a_run_killed_before_any_call_that_writes_a_file_ends_with_the_same_bits(
    tmp_path, unbroken
):
    """Before each opening, syncing, renaming and removing of a file, in turn."""
    assert kill("numpy", tmp_path / "run", "within-writes") > 20
    assert remains(tmp_path / "run") == unbroken("numpy")


def test_a_process_killed_after_its_summary_leaves_no_lock_for_good(tmp_path):
    done = train(tiny(), tmp_path)
    (tmp_path / ".lock").write_text("elsewhere, process 1")
    assert train(tiny(), tmp_path, resume=True).summary == done.summary
    assert not (tmp_path / ".lock").exists()
    with folder_lock.lock(tmp_path):
        assert train(tiny(), tmp_path, resume=True).summary == done.summary
        assert (tmp_path / ".lock").exists()


def limited(limit, *words):
    """``gatecore train`` with files of at most ``limit`` bytes, as on a full disk."""
    limiting = (
        "import os, resource, sys; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2); "
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )  # in a process between: this one may have threads, with which it must not fork
    command = [sys.executable, "-c", limiting, str(limit), "-m", "gatecore.tasks.cli", "train",
               "copying", *words]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_full_disk_before_training_is_an_error_and_writes_nothing(tmp_path):
    done = limited(100, *arguments("--out", str(tmp_path)))
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "config.json" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_stops_the_run_after_its_last_checkpoint(tmp_path):
    """The log grows until the disk is full; with free space the run continues from there."""
    settings = {"hidden_size": 4, "steps": 200, "log_every": 1, "test_size": 1}
    words = arguments("--mechanism", "R", "--out", str(tmp_path), **settings)
    done = limited(20_000, *words)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "metrics.jsonl" in done.stderr
    assert "--resume" in done.stderr
    step = json.loads((tmp_path / "state.json").read_text())["step"]
    assert 0 < step < 200
    long_run = tiny(mechanism="R", **settings)
    seen = []
    train(long_run, tmp_path, resume=True, on_step=lambda step, _: seen.append(step))
    assert seen[0] == step + 1
    train(long_run, tmp_path / "whole")
    assert remains(tmp_path) == remains(tmp_path / "whole")


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    words = arguments("--out", str(tmp_path), steps=1_000_000, evaluate_every=100_000)
    command = [sys.executable, "-m", "gatecore.tasks.cli", "train", "copying", *words]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as other:
        while not (tmp_path / "state.json").exists():
            time.sleep(0.02)
        assert folder_lock.is_locked(tmp_path)
        again = tiny(steps=1_000_000, evaluate_every=100_000)
        with pytest.raises(Busy, match=rf"trained by another process \(.*, process {other.pid}\)"):
            train(again, tmp_path, resume=True)
        assert load_run(tmp_path).status == "unfinished"
        other.kill()
    assert (tmp_path / ".lock").exists()
    assert not folder_lock.is_locked(tmp_path)
    with folder_lock.lock(tmp_path):
        assert folder_lock.is_locked(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_lock_on_a_removed_file_is_taken_again(tmp_path, monkeypatch):
    """The owner removes the file at the end; another process may have opened it before."""
    opened, original = [], os.open

    def remove_meanwhile(path, *args, **kwargs):
        descriptor = original(path, *args, **kwargs)
        if str(path).endswith(".lock") and not opened:
            opened.append(path)
            os.unlink(path)
        return descriptor

    monkeypatch.setattr(os, "open", remove_meanwhile)
    with folder_lock.lock(tmp_path):
        assert (tmp_path / ".lock").exists()
        assert folder_lock.is_locked(tmp_path)


def test_a_file_system_without_locks_gives_a_warning(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(folder_lock.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folder_lock.fcntl, "flock", fail)
    with pytest.warns(UserWarning, match="has no locks"), folder_lock.lock(tmp_path):
        pass


def test_a_second_signal_while_checkpointing_keeps_the_run(tmp_path, unbroken, monkeypatch):
    def twice(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", twice)
        with pytest.raises(KeyboardInterrupt):
            train(config("numpy"), tmp_path)
    train(config("numpy"), tmp_path, resume=True)
    assert remains(tmp_path) == unbroken("numpy")


def test_a_folder_whose_name_is_too_long_is_an_error(tmp_path):
    with pytest.raises(RunError, match="File name too long"):
        train(tiny(), tmp_path / ("x" * 300), resume=True)
    with pytest.raises(RunError, match="File name too long"):
        load_run(tmp_path / ("x" * 300))
