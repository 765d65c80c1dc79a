"""The scheduler of a sweep: it gives trials to workers until each has ended."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import joblib

from gatecore.tasks.safe_files import descriptor, parse_json
from gatecore.tasks.sweeps.config import SweepConfig, Trial, place
from gatecore.tasks.sweeps.workers import Cluster, Local, Order, Outcome, Pool, connected
from gatecore.tasks.training.atomic_files import RunError, output_folder, write_json
from gatecore.tasks.training.folder_lock import Busy, lock
from gatecore.tasks.training.run import Run, load_run
from gatecore.tasks.training.run_folder import remove_parts
from gatecore.tasks.training.signals import Interrupted, signals

DEATHS = 3  # of its process, after which a trial has failed
RECORD = "sweep.jsonl"
_PATIENCE = 2.0  # seconds between two attempts at a trial that another process trains
_POLL = 0.5  # seconds


@dataclasses.dataclass
class Progress:
    """The progress of a trial, read from its folder, so that any process may train it."""

    trial: Trial
    folder: Path
    status: str = "waiting"  # or "running", "finished", "diverged", "failed"
    step: int = 0
    metric: float | None = None  # that the task shows, in training, then on the test set
    deaths: int = 0
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.status in ("finished", "diverged", "failed")


class Watcher(Protocol):
    """Receives the progress of a sweep."""

    def update(self, progress: Sequence[Progress]) -> None:
        """Called about twice a second."""

    def event(self, one: Progress, what: str) -> None:
        """Called when a trial "finished", "diverged" or "failed", or its process "died"."""


@dataclasses.dataclass(frozen=True)
class Swept:
    """The results of a sweep, by the names of its trials."""

    out: Path
    runs: dict[str, Run]  # that finished or diverged
    failed: dict[str, str]  # why others failed


def sweep(config: SweepConfig, watcher: Watcher | None = None) -> Swept:
    """Train all trials of a sweep that have not ended yet, on several workers.

    Each trial is a run in a folder of its own below ``config.out``, where runs of the same config
    are reused or continued. A trial whose process dies is continued from its last checkpoint, and
    has failed after three deaths; the next sweep tries it again. ``sweep.jsonl`` records deaths and
    ends, ``sweep.json`` the config. Several sweeps may share a folder: one of them trains each
    trial. A ``watcher`` has the methods of ``gatecore.tasks.sweeps.scheduler.Watcher``.

    ConfigError if a combination is invalid, or no scheduler answers, and RunError if the folder, or
    that of a trial, cannot be used: nothing has been trained; RunError also if the scheduler was
    lost. Interrupted after SIGINT or SIGTERM: the runs in progress have a checkpoint.

    >>> from gatecore.tasks import SweepConfig, sweep
    >>> config = SweepConfig.of("copying", mechanisms=["U", "UR"], seeds=3, steps=100,
    ...                         set={"length": 20})
    >>> swept = sweep(config)  # doctest: +SKIP
    >>> sorted(swept.runs)[0]  # doctest: +SKIP
    'copying-U-seed0'
    """
    trials, _ = config.trials()
    out = config.out.absolute()
    folders = place(trials, out)
    progress = [Progress(trial, folders[trial.name]) for trial in trials]
    for one in progress:
        _read(one)
    with contextlib.ExitStack() as stack:
        if all(one.ended for one in progress):
            _create(out, config)
        else:
            sizes = describe(config)
            pool: Pool = (Cluster(stack.enter_context(connected(config.dask))) if config.dask
                          else Local(sizes["workers"]))  # fmt: skip
            _create(out, config)
            _Sweep(progress, out, pool, watcher, sizes.get("threads", config.threads or 1)).run()
    failed = {one.trial.name: one.reason for one in progress if one.status == "failed"}
    rest = (one for one in progress if one.status != "failed")
    return Swept(out, {one.trial.name: load_run(one.folder) for one in rest}, failed)


class _Sweep:
    """The trials that are left, and the attempts in progress."""

    def __init__(self, progress: list[Progress], out: Path, pool: Pool,
                 watcher: Watcher | None, threads: int) -> None:  # fmt: skip
        self.progress, self.out, self.pool = progress, out, pool
        self.watcher, self.threads = watcher, threads
        self.attempts: dict[concurrent.futures.Future[Outcome], Progress] = {}
        self.later: list[tuple[float, Progress]] = []  # trials of other processes: when to retry

    def run(self) -> None:
        with signals() as received:
            try:
                for one in self.progress:
                    if not one.ended:
                        self._submit(one)
                while (self.attempts or self.later) and not received:
                    self._turn()
            finally:
                self.pool.stop()
            if received:
                trials = f"{sum(one.ended for one in self.progress)} of {len(self.progress)} trials"
                raise Interrupted(f"stopped; {trials} have ended, and the others' checkpoints are "
                                  f"in {self.out}", received[0])  # fmt: skip

    def _submit(self, one: Progress) -> None:
        config = one.trial.config.model_dump(mode="json")
        self.attempts[self.pool.submit(Order(config, str(one.folder), self.threads))] = one

    def _turn(self) -> None:
        """Wait for attempts to end, begin those that are due, and report the progress."""
        done, _ = concurrent.futures.wait(self.attempts, _POLL, "FIRST_COMPLETED")
        if not self.attempts:
            time.sleep(_POLL)
        for future in done:
            self._ended(self.attempts.pop(future), future)
        due = [one for when, one in self.later if when <= time.monotonic()]
        self.later = [(when, one) for when, one in self.later if one not in due]
        for one in due:
            self._report(one, one.status) if one.ended else self._submit(one)
        for one in self.progress:
            if not one.ended:
                _read(one)
        if self.watcher:
            self.watcher.update(self.progress)

    def _ended(self, one: Progress, future: "concurrent.futures.Future[Outcome]") -> None:
        try:
            outcome = future.result()
        except concurrent.futures.CancelledError as error:
            raise RunError("the Dask scheduler is gone; the same command continues the "
                           "sweep") from error  # fmt: skip
        except Exception as error:  # noqa: BLE001 - Dask's KilledWorker, or a worker's own error
            outcome = Outcome("lost", f"{type(error).__name__}: {error}")
        if outcome.kind == "busy":
            self.later.append((time.monotonic() + _PATIENCE, one))
        elif outcome.kind == "done":
            _read(one)
            self._report(one, one.status)
        else:  # also where another process stopped it
            one.deaths = DEATHS if outcome.kind == "lost" else one.deaths + 1
            one.reason = outcome.reason
            if one.deaths < DEATHS:
                self._report(one, "died")
                self._submit(one)
            else:
                one.status = "failed"
                self._report(one, "failed")

    def _report(self, one: Progress, what: str) -> None:
        """Record an event, if that can be written: the runs' folders hold the results anyway."""
        line = {"trial": one.trial.name, "folder": one.folder.name, "event": what,
                "deaths": one.deaths, "reason": one.reason, "time": time.time()}  # fmt: skip
        with contextlib.suppress(OSError), _record(self.out) as stream:
            stream.write(json.dumps(line) + "\n")
        if self.watcher:
            self.watcher.event(one, what)


def _read(one: Progress) -> None:
    """Update the progress of a trial from its folder."""
    if (one.folder / "summary.json").exists():
        try:
            run = load_run(one.folder)
        except RunError as error:
            one.status, one.reason = "failed", str(error)
            return
        test = run.summary["test"] if run.summary else None
        one.status, one.step = run.status, run.config.steps
        one.metric = test and test[run.config.task.shown]
        return
    one.status = "running" if (one.folder / ".lock").exists() else "waiting"
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError, TypeError):
        with open(descriptor(one.folder / "metrics.jsonl"), "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - 4096))
            last = parse_json(stream.read().split(b"\n")[-2])  # a complete line
        one.step, one.metric = int(last["step"]), last[one.trial.config.task.shown]


def _record(out: Path) -> TextIO:
    """The record of a sweep, to be continued."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return open(descriptor(out / RECORD, flags), "a", encoding="utf-8")


def _create(out: Path, config: SweepConfig) -> None:
    """Make the folder and record the config; another sweep may do so at the same time."""
    while True:
        try:
            with output_folder(out):
                out.mkdir(parents=True, exist_ok=True)
                with lock(out):
                    if os.path.lexists(out / RECORD):
                        _record(out).close()  # raises an error about a link
                    remove_parts(out, ["sweep.json"])
                    write_json(out / "sweep.json", config.model_dump(mode="json"))
            return
        except Busy:
            time.sleep(0.05)


def describe(config: SweepConfig) -> dict[str, Any]:
    """The workers of a sweep, and the BLAS threads of each: its share of the machine."""
    if config.dask:
        return {"dask": config.dask}
    workers = config.workers or max(1, joblib.cpu_count() // (config.threads or 1))
    threads = config.threads or max(1, joblib.cpu_count() // workers)
    return {"workers": workers, "threads": threads}
