"""Running sweeps: deaths, failures, signals, shared folders, the command and its display."""

import concurrent.futures
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import pytest
import rich.console
from click.testing import CliRunner

from gatecore.tasks import load_run, sweep, train
from gatecore.tasks.cli.commands import main
from gatecore.tasks.sweeps import scheduler
from gatecore.tasks.sweeps.display import Display, results_table
from gatecore.tasks.sweeps.scheduler import Progress, Swept
from gatecore.tasks.sweeps.workers import Order, Outcome, attempt
from gatecore.tasks.training.config import Config, ConfigError
from gatecore.tasks.training.run_folder import Folder, RunError
from tests.packaging.layout import ROOT
from tests.tasks.sweeping import (
    ends,
    kill,
    record,
    results,
    start,
    step,
    tiny_sweep,
    wait_for,
    worker,
)
from tests.tasks.tiny import tiny


class Here:
    """A pool that trains in this process, or returns outcomes that a test sets."""

    def __init__(self, **outcomes):
        self.outcomes, self.orders = outcomes, []

    def submit(self, order):
        name = os.path.basename(order.folder)
        self.orders.append(name)
        future = concurrent.futures.Future()
        outcome = self.outcomes[name].pop(0) if self.outcomes.get(name) else None
        if isinstance(outcome, BaseException):
            future.set_exception(outcome)
            return future
        if outcome is None:
            train(Config.model_validate(order.config), order.folder, resume=True)
        future.set_result(outcome or Outcome("done"))
        return future

    def stop(self):
        pass


@pytest.fixture
def pool(monkeypatch):
    """A function that makes the pool of a test's sweeps."""
    monkeypatch.setattr(scheduler, "_PATIENCE", 0)

    def use(**outcomes):
        made = Here(**{name.replace("_", "-"): values for name, values in outcomes.items()})
        monkeypatch.setattr(scheduler, "Local", lambda _: made)
        return made

    return use


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The results of the trials of an undisturbed sweep."""
    out = tmp_path_factory.mktemp("alone")
    for mechanism in ("U", "UR"):
        train(
            tiny(mechanism=mechanism, steps=250, checkpoint_every=25),
            out / f"copying-{mechanism}-seed0",
        )
    return results(out)


def died(reason="its process was killed by SIGKILL"):
    return Outcome("died", reason)


def test_a_sweep_returns_its_runs(tmp_path, pool):
    pool()
    swept = sweep(tiny_sweep(tmp_path, seeds=2))
    assert sorted(swept.runs) == [f"copying-{m}-seed{s}" for m in ("U", "UR") for s in (0, 1)]
    assert {run.status for run in swept.runs.values()} == {"finished"}
    assert swept.failed == {}
    assert ends(tmp_path) == dict.fromkeys(swept.runs, 1)


def test_a_finished_trial_is_not_repeated(tmp_path, pool):
    train(tiny(mechanism="U"), tmp_path / "copying-U-seed0")
    first, again = pool(), None
    sweep(tiny_sweep(tmp_path))
    assert first.orders == ["copying-UR-seed0"]
    again = pool()
    assert len(sweep(tiny_sweep(tmp_path)).runs) == 2
    assert again.orders == []


def test_a_trial_is_tried_again_and_has_failed_after_three_deaths(tmp_path, pool):
    made = pool(copying_U_seed0=[died()] * 3, copying_UR_seed0=[died(), died()])
    swept = sweep(tiny_sweep(tmp_path))
    assert list(swept.runs) == ["copying-UR-seed0"]
    assert swept.failed == {"copying-U-seed0": "its process was killed by SIGKILL"}
    assert sorted(made.orders) == ["copying-U-seed0"] * 3 + ["copying-UR-seed0"] * 3
    assert sorted(record(tmp_path)) == [
        ("copying-U-seed0", "died"), ("copying-U-seed0", "died"), ("copying-U-seed0", "failed"),
        ("copying-UR-seed0", "died"), ("copying-UR-seed0", "died"),
        ("copying-UR-seed0", "finished"),
    ]  # fmt: skip


def test_the_next_sweep_tries_a_failed_trial_again(tmp_path, pool):
    pool(copying_U_seed0=[died()] * 3)
    assert sweep(tiny_sweep(tmp_path)).failed
    pool()
    assert len(sweep(tiny_sweep(tmp_path)).runs) == 2


def test_a_trial_that_the_cluster_gives_up_has_failed(tmp_path, pool):
    pool(copying_U_seed0=[RuntimeError("KilledWorker, say")])
    assert sweep(tiny_sweep(tmp_path)).failed == {
        "copying-U-seed0": "RuntimeError: KilledWorker, say"
    }


def test_a_lost_scheduler_is_an_error(tmp_path, pool):
    pool(copying_U_seed0=[concurrent.futures.CancelledError()])
    with pytest.raises(RunError, match="the Dask scheduler is gone"):
        sweep(tiny_sweep(tmp_path))


def test_a_sweep_waits_for_a_trial_of_another_process(tmp_path, pool):
    made = pool(copying_U_seed0=[Outcome("busy")] * 4)
    assert len(sweep(tiny_sweep(tmp_path)).runs) == 2
    assert made.orders.count("copying-U-seed0") == 5
    assert ends(tmp_path) == {"copying-U-seed0": 1, "copying-UR-seed0": 1}


def test_a_trial_that_diverged_is_a_result(tmp_path, pool):
    pool()
    config = tiny_sweep(tmp_path, lr=[1e-3, 1e30], mechanisms="U")
    swept = sweep(config)
    assert [run.status for run in swept.runs.values()] == ["finished", "diverged"]
    assert ("copying-U-lr1e+30-seed0", "diverged") in record(tmp_path)


def test_sweeps_may_begin_at_the_same_moment(tmp_path):
    config = tiny_sweep(tmp_path)
    with concurrent.futures.ThreadPoolExecutor(8) as several:
        list(several.map(lambda _: scheduler._create(tmp_path, config), range(100)))
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.json"]


def test_unusable_folders_are_errors_before_training(tmp_path, pool):
    made = pool()
    train(tiny(mechanism="UR", steps=3), tmp_path / "copying-UR-seed0")
    with pytest.raises(RunError, match="holds a run of another config"):
        sweep(tiny_sweep(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot be an output folder: Not a directory"):
        sweep(tiny_sweep(tmp_path / "file" / "sweep"))
    assert made.orders == []
    assert not (tmp_path / "sweep.json").exists()


_CONNECTING = """
import pathlib, sys
from gatecore.tasks import sweep
from gatecore.tasks.sweeps import workers
from gatecore.tasks.training.config import Config, ConfigError
from tests.tasks.sweeping import tiny_sweep

workers.ANSWER = 0.5
for address in sys.argv[2:]:
    try:
        sweep(tiny_sweep(pathlib.Path(sys.argv[1]), dask=address))
    except ConfigError as error:
        print(error)
"""


def test_an_address_without_a_scheduler_is_an_error_before_training(tmp_path):
    """In a process of its own: a Dask client starts threads."""
    pytest.importorskip("distributed")
    addresses = ["tcp://127.0.0.1:1", "nonsense", "ftp://x"]
    command = [sys.executable, "-c", _CONNECTING, str(tmp_path / "out"), *addresses]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for address, line in zip(addresses, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"dask='{address}': no scheduler answers")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n" * 50], ids=["silent", "HTTP"]
)
def test_a_silent_or_foreign_server_is_an_error_soon(tmp_path, answer):
    """It accepts connections, and says nothing or something else."""
    pytest.importorskip("distributed")
    with socket.create_server(("127.0.0.1", 0)) as server, contextlib.ExitStack() as connections:

        def accept():
            with contextlib.suppress(OSError):
                while True:
                    connections.enter_context(server.accept()[0]).sendall(answer)

        thread = threading.Thread(target=accept)
        thread.start()
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        command = [sys.executable, "-c", _CONNECTING, str(tmp_path / "out"), address]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert done.stdout.startswith(f"dask='{address}': no scheduler answers there within 0.5 s")
    assert "Traceback" not in done.stderr


def test_the_error_about_a_missing_dask_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[sweeps\]'"):
        sweep(tiny_sweep(tmp_path / "out", dask="tcp://127.0.0.1:8786"))
    assert list(tmp_path.iterdir()) == []


def order(folder, **settings):
    return Order(tiny(**settings).model_dump(mode="json"), str(folder), 1)


def test_an_attempt_returns_why_its_process_ended(tmp_path):
    folder = tmp_path / "run"
    assert attempt(order(folder), lambda: False) == Outcome("done")
    assert load_run(folder).status == "finished"
    kind, reason = attempt(order(folder, steps=13), lambda: False)
    assert kind == "died"
    assert "holds a run of another config: steps (12 there, 13 here)" in reason


def test_an_attempt_uses_the_threads_of_its_order_and_ignores_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    open_order = Order(tiny(threads=None).model_dump(mode="json"), str(tmp_path / "run"), 1)
    assert attempt(open_order, lambda: False).kind == "done"
    assert load_run(tmp_path / "run").environment["threads"] == 1


def test_a_stopped_attempt_writes_a_checkpoint(tmp_path):
    folder = tmp_path / "run"
    endless = order(folder, steps=1_000_000, checkpoint_every=1_000_000)
    outcome = attempt(endless, (folder / "metrics.jsonl").exists)
    assert outcome.kind == "stopped"
    assert step(folder) >= 0
    assert Folder(folder).load_checkpoint() is not None
    assert attempt(endless, lambda: True).kind == "stopped"


def test_killed_trials_end_with_the_same_bits_as_undisturbed_ones(tmp_path, alone):
    """With processes as workers: one trial is killed twice, the other never."""
    with start(tmp_path, "--workers", "2", steps=250, log_every=3, checkpoint_every=25) as running:
        first = kill(tmp_path / "copying-U-seed0")
        kill(tmp_path / "copying-U-seed0", after=first)
        output, errors = running.communicate(timeout=300)
    assert (running.returncode, errors) == (0, "")
    assert results(tmp_path) == alone
    assert ends(tmp_path) == dict.fromkeys(alone, 1)
    assert output.count("copying-U-seed0: died (its process was killed by SIGKILL") == 2
    assert "copying-UR-seed0: finished, test loss" in output


def test_a_trial_whose_worker_always_dies_fails_with_the_reason_and_status_1(tmp_path):
    endless = ["--mechanisms", "U", "--workers", "1"]
    with start(tmp_path, *endless, steps=1_000_000) as running:
        folder, last = tmp_path / "copying-U-seed0", 0
        for _ in range(3):
            last = kill(folder, after=last)
        output, _ = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "copying-U-seed0 failed: its process was killed by SIGKILL (out of memory?)" in output


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_all_trials_with_checkpoints(tmp_path, signum, status):
    folders = [tmp_path / "copying-U-seed0", tmp_path / "copying-UR-seed0"]
    with start(tmp_path, "--workers", "2", steps=1_000_000, checkpoint_every=999_999) as running:
        processes = [wait_for(lambda f=folder: (f / "gates.safetensors").exists() and worker(f))
                   for folder in folders]  # fmt: skip
        running.send_signal(signum)
        _, errors = running.communicate(timeout=300)
    assert running.returncode == status
    assert "stopped; 0 of 2 trials have ended" in errors
    assert "Traceback" not in errors
    for folder, pid in zip(folders, processes, strict=True):
        assert Folder(folder).load_checkpoint() is not None
        assert worker(folder) is None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_trials_stop_when_the_sweep_is_killed_and_the_next_one_continues(tmp_path, alone):
    """They stop when their standard input ends."""
    folder = tmp_path / "copying-U-seed0"
    with start(
        tmp_path, "--workers", "1", "--mechanisms", "U", steps=250, log_every=3, checkpoint_every=25
    ) as running:
        wait_for(lambda: step(folder) > 0)
        running.kill()
    wait_for(lambda: worker(folder) is None)
    with start(
        tmp_path, "--workers", "1", "--mechanisms", "U", steps=250, log_every=3, checkpoint_every=25
    ) as running:
        running.communicate(timeout=300)
    assert results(tmp_path) == {folder.name: alone[folder.name]}


def test_two_sweeps_share_a_folder(tmp_path, alone):
    """One of them trains each trial, and both have all results."""
    both = [
        start(tmp_path, "--workers", "1", steps=250, log_every=3, checkpoint_every=25)
        for _ in range(2)
    ]
    for running in both:
        _, errors = running.communicate(timeout=300)
        assert (running.returncode, errors) == (0, "")
    assert results(tmp_path) == alone


def run(*words):
    result = CliRunner().invoke(main, ["sweep", *map(str, words)], env={"COLUMNS": "80"})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_options_override_the_keys_of_a_toml_file(tmp_path, pool):
    pool()
    lists = "".join(f"{k} = {v}\n" for k, v in tiny_sweep(tmp_path).set.items())
    (tmp_path / "sweep.toml").write_text(
        f'task = "copying"\nmechanisms = "U,UR"\nsteps = 5\nseeds = 2\n[set]\n{lists}'
    )
    out = tmp_path / "out"
    result = run("--config", tmp_path / "sweep.toml", "--seeds", "3,", "--out", out)
    assert (result.exit_code, result.output.count("Error:")) == (2, 1)
    result = run("--config", tmp_path / "sweep.toml", "--seeds", "3,4", "--set", "length=6,7",
                 "--out", out)  # fmt: skip
    assert result.exit_code == 0
    names = [f"copying-{m}-length={n}-seed{s}" for m in ("U", "UR") for n in (6, 7) for s in (3, 4)]
    assert sorted(path.parent.name for path in out.glob("*/summary.json")) == names
    recorded = json.loads((out / "sweep.json").read_text())
    assert (recorded["seeds"], recorded["steps"], recorded["set"]["length"]) == ([3, 4], 5, [6, 7])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no task is named"),
        (["copyng"], "task='copyng' is unknown: did you mean 'copying'?"),
        (["copying", "--mechanisms", "URR"], "did you mean 'UR'"),
        (["copying", "--lr", "fast"], "lr.0='fast'"),
        (["copying", "--lr", "1e-3,0.001"], "given twice"),
        (["copying", "--seeds", "none"], "seeds.0='none'"),
        (["copying", "--workers", "0"], "workers=0"),
        (["copying", "--steps", "many"], "'many' is not a valid integer"),
        (["copying", "--set", "lenght=5,6"], "did you mean 'length'"),
        (["copying", "--set", "length"], "--set 'length' should be KEY=VALUE or KEY=V1,V2"),
        (["copying", "--set", "length="], "should be KEY=VALUE or KEY=V1,V2"),
        (["copying", "--set", "length=5", "--set", "length=6"], "length is given twice"),
        (["copying", "--set", "seed=1,2"], "seed is set by the key seeds of a sweep"),
        (["forgetting", "--mechanisms", "U,OM"], "cannot run forgetting"),
        (["copying", "--out", __file__], "is a file"),
        (["copying", "--config", "missing.toml"], "does not exist"),
        (["--config", "broken.toml"], "broken.toml is no TOML"),
        (["--config", "binary.toml"], "binary.toml is no TOML"),
        (["--config", "other.toml"], "key='mechanism' is unknown: did you mean 'mechanisms'"),
    ],
)
def test_bad_input_gets_one_message_and_status_2(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.toml").write_text("task = \n")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "other.toml").write_text('task = "copying"\nmechanism = "U"\n')
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert result.output.count("Error:") == 1
    assert not (tmp_path / "runs").exists()


def console(**settings):
    return rich.console.Console(file=io.StringIO(), width=80, **settings)


def progress(count, statuses):
    return [
        Progress(
            scheduler.Trial(f"copying-U-seed{k}", tiny()), None, statuses[k % len(statuses)], 6
        )
        for k in range(count)
    ]


def test_the_live_table_fits_the_window_with_running_trials_first():
    terminal = console(height=12, force_terminal=True, legacy_windows=False)
    trials = progress(40, ["waiting", "finished", "running", "failed"])
    display = Display(terminal)
    with display:
        display.update(trials)
    text = console()
    text.print(display._table(trials))
    lines = text.file.getvalue().splitlines()
    assert len(lines) <= 12 - 2
    assert "running" in lines[2]
    assert "… and 4 running, 10 failed, 10 waiting, 10 finished" in lines[-1]
    assert "20/40 trials" in terminal.file.getvalue()


def test_without_a_terminal_each_event_is_a_line():
    terminal = console()
    display = Display(terminal)
    with display:
        (one,) = progress(1, ["running"])
        display.update([one])
        one.deaths, one.reason = 1, "killed"
        display.event(one, "died")
        one.status, one.metric = "finished", 0.5
        display.event(one, "finished")
    lines = terminal.file.getvalue().splitlines()
    assert lines == [
        "copying-U-seed0: died (killed); death 1, it continues from its last checkpoint",
        "copying-U-seed0: finished, test loss 0.5000",
    ]


def test_the_results_are_medians_over_seeds(tmp_path):
    runs = {
        f"copying-U-seed{seed}": train(tiny(mechanism="U", seed=seed), tmp_path / str(seed))
        for seed in range(3)
    }
    text = console()
    text.print(results_table(Swept(tmp_path, runs, {"copying-U-seed3": "killed"})))
    losses = sorted(run.summary["test"]["loss"] for run in runs.values())
    assert text.file.getvalue().splitlines()[-1].split() == [
        "copying-U", "4", "1", f"{losses[1]:.4f}"
    ]  # fmt: skip
