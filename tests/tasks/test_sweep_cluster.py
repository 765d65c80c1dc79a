"""A sweep on a Dask cluster of separate processes, some of which are killed."""

import signal
import subprocess
import sys

import pytest

from gatecore.tasks import train
from gatecore.tasks.training.run_folder import Folder
from tests.tasks.sweeping import ends, results, start, strike, wait_for, worker
from tests.tasks.tiny import tiny

pytest.importorskip("distributed")
psutil = pytest.importorskip("psutil", reason="it comes with distributed")
NAMES = [f"copying-{mechanism}-seed{seed}" for seed in (0, 1) for mechanism in ("U", "UR")]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The address of a scheduler, and its three workers as processes."""
    folder, python = tmp_path_factory.mktemp("cluster"), [sys.executable, "-m"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    file = str(folder / "scheduler.json")
    common = ["--scheduler-file", file, "--no-dashboard"]
    scheduler = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    processes = [subprocess.Popen([*scheduler, *common], **quiet)]
    try:
        wait_for((folder / "scheduler.json").exists)
        one = [*python, "distributed.cli.dask_worker", "--nthreads", "1", "--no-nanny", *common]
        processes += [subprocess.Popen(one, **quiet) for _ in range(3)]
        yield (
            "tcp://" + (folder / "scheduler.json").read_text().split("tcp://")[1].split('"')[0],
            (processes[1:]),
        )
    finally:
        for process in processes:
            process.kill()
            process.wait()


def ancestors(pid):
    """The parents of a process, and theirs."""
    try:
        return [process.pid for process in psutil.Process(pid).parents()]
    except psutil.NoSuchProcess:
        return []


def test_ctrl_c_stops_the_trials_of_all_workers_with_checkpoints(tmp_path, cluster):
    address, _ = cluster
    with start(tmp_path, "--dask", address, steps=1_000_000, checkpoint_every=999_999) as running:
        folders = [tmp_path / name for name in ("copying-U-seed0", "copying-UR-seed0")]
        for folder in folders:
            wait_for((folder / "gates.safetensors").exists)
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=300)
    assert (running.returncode, "Traceback" in errors) == (130, False)
    for folder in folders:
        assert Folder(folder).load_checkpoint() is not None
        assert worker(folder) is None


def test_every_trial_finishes_once_when_a_worker_and_a_trial_are_killed(tmp_path, cluster):
    """One of three workers dies; metrics and scores are those of undisturbed runs."""
    address, workers = cluster
    for name in NAMES:
        _, mechanism, seed = name.split("-")
        config = tiny(
            mechanism=mechanism, seed=int(seed[4:]), steps=250, log_every=3, checkpoint_every=25
        )
        train(config, tmp_path / "here" / name)
    out = tmp_path / "there"
    with start(
        out, "--seeds", "2", "--dask", address, steps=250, log_every=3, checkpoint_every=25
    ) as running:
        folders = [out / name for name in NAMES]

        def owner_killed(pid):
            for process in workers:
                if process.pid in ancestors(pid):
                    process.kill()
                    return True
            return False

        first = strike(folders, owner_killed)
        strike([folder for folder in folders if folder != first])
        output, errors = running.communicate(timeout=300)
    assert (running.returncode, errors) == (0, "")
    assert ends(out) == dict.fromkeys(NAMES, 1)
    assert results(out) == results(tmp_path / "here")
    assert output.count("died") == 1
