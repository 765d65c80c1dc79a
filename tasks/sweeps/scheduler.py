"""Running a sweep: trials go to workers until each has ended; what is done is never done again."""

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import joblib

from gatecore.tasks.sweeps.config import SweepConfig, Trial, place
from gatecore.tasks.sweeps.workers import Cluster, Local, Order, Outcome, Pool, connected
from gatecore.tasks.training import atomic_files
from gatecore.tasks.training.run_folder import Busy, Run, RunError, load_run
from gatecore.tasks.training.trainer import Interrupted, signals

DEATHS = 3  # after so many a trial has failed
RECORD = "sweep.jsonl"
_PATIENCE = 2.0  # seconds before a trial is tried again that another process had
_POLL = 0.5


@dataclasses.dataclass
class Progress:
    """Where a trial is; read from its folder, so that it does not matter who trains it.

    ``status`` is "waiting", "running", "finished", "diverged" or "failed".
    """

    trial: Trial
    folder: Path
    status: str = "waiting"
    step: int = 0
    told: float | None = None  # the metric that its task shows
    deaths: int = 0
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether there is no more to do for it."""
        return self.status in ("finished", "diverged", "failed")


class Watcher(Protocol):
    """Who is told how a sweep goes on."""

    def update(self, progress: Sequence[Progress]) -> None:
        """Called about twice a second."""

    def event(self, one: Progress, what: str) -> None:
        """A trial ended, or its worker died."""


@dataclasses.dataclass(frozen=True)
class Swept:
    """What a sweep left: the runs that finished or diverged, and why others failed, by trial."""

    out: Path
    runs: dict[str, Run]
    failed: dict[str, str]


def sweep(config: SweepConfig, watcher: Watcher | None = None) -> Swept:
    """Train all trials of a sweep that have not ended yet, on several workers.

    Each trial is a run's folder below ``config.out``. A run of the same config that is there,
    finished or not, is taken as it is, or gone on with. A trial whose worker dies is continued from
    its last checkpoint by another, and has failed after three deaths; the next sweep over the
    folder tries it again. Deaths and ends are recorded in ``sweep.jsonl``, the config in
    ``sweep.json``. Several sweeps may share a folder: each trial is trained by one of them.

    Parameters
    ----------
    config : SweepConfig
    watcher : optional
        An object with the methods of ``gatecore.tasks.sweeps.scheduler.Watcher``.

    Returns
    -------
    Swept

    Raises
    ------
    ConfigError
        A combination cannot be, or no scheduler answers. Nothing has been trained then.
    RunError
        The folder, or that of a trial, cannot be used. Nothing has been trained then, unless the
        scheduler went away.
    Interrupted
        After SIGINT or SIGTERM: the runs in progress have a checkpoint.

    Examples
    --------
    >>> from gatecore.tasks import SweepConfig, sweep
    >>> config = SweepConfig.of(
    ...     "copying", mechanisms=["U", "UR"], seeds=3, steps=100, set={"length": 20}
    ... )
    >>> swept = sweep(config)  # doctest: +SKIP
    >>> sorted(swept.runs)[0]  # doctest: +SKIP
    'copying-U-seed0'
    """
    trials, _ = config.trials()
    out = config.out.absolute()
    folders = place(trials, out)
    progress = [Progress(trial, folders[trial.name]) for trial in trials]
    for one in progress:
        _look(one)
    with contextlib.ExitStack() as stack:
        if all(one.ended for one in progress):
            _create(out, config)
        else:
            pool = stack.enter_context(_pool(config))
            _create(out, config)
            _Sweep(progress, out, pool, watcher, _threads(config)).run()
    return Swept(
        out,
        {one.trial.name: load_run(one.folder) for one in progress if one.status != "failed"},
        {one.trial.name: one.reason for one in progress if one.status == "failed"},
    )


class _Sweep:
    """The trials that are left, and the attempts in progress."""

    def __init__(
        self, progress: list[Progress], out: Path, pool: Pool, watcher: Watcher | None,
        threads: int,
    ) -> None:  # fmt: skip
        self.progress, self.out, self.pool, self.threads = progress, out, pool, threads
        self.watcher = watcher
        self.attempts: dict[concurrent.futures.Future[Outcome], Progress] = {}
        self.later: list[tuple[float, Progress]] = []  # when to try again what another one had

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
                ended = sum(one.ended for one in self.progress)
                raise Interrupted(
                    f"stopped; {ended} of {len(self.progress)} trials have ended, and the others' "
                    f"checkpoints are in {self.out}",
                    received[0],
                )

    def _submit(self, one: Progress) -> None:
        config = one.trial.config.model_dump(mode="json")
        self.attempts[self.pool.submit(Order(config, str(one.folder), self.threads))] = one

    def _turn(self) -> None:
        """See which attempts ended, and begin those that are due."""
        done, _ = concurrent.futures.wait(
            self.attempts, _POLL, return_when=concurrent.futures.FIRST_COMPLETED
        )
        if not self.attempts:
            time.sleep(_POLL)
        for future in done:
            self._take(self.attempts.pop(future), future)
        due = [one for when, one in self.later if when <= time.monotonic()]
        self.later = [(when, one) for when, one in self.later if one not in due]
        for one in due:
            if one.ended:
                self._tell(one, one.status)
            else:
                self._submit(one)
        for one in self.progress:
            if not one.ended:
                _look(one)
        if self.watcher:
            self.watcher.update(self.progress)

    def _take(self, one: Progress, future: "concurrent.futures.Future[Outcome]") -> None:
        outcome = _result(future)
        if outcome.kind == "busy":
            self.later.append((time.monotonic() + _PATIENCE, one))
        elif outcome.kind == "done":
            _look(one)
            self._tell(one, one.status)
        else:  # a process that was told to stop by somebody else is a death as well
            self._died(one, outcome)

    def _died(self, one: Progress, outcome: Outcome) -> None:
        one.deaths = DEATHS if outcome.kind == "lost" else one.deaths + 1
        one.reason = outcome.reason
        if one.deaths < DEATHS:
            self._tell(one, "died")
            self._submit(one)
            return
        one.status = "failed"
        self._tell(one, "failed")

    def _tell(self, one: Progress, what: str) -> None:
        """Keep it in the record. What cannot be written there is known from the runs themselves."""
        line = {"trial": one.trial.name, "folder": one.folder.name, "event": what,
                "deaths": one.deaths, "reason": one.reason, "time": time.time()}  # fmt: skip
        with contextlib.suppress(OSError), open(self.out / RECORD, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        if self.watcher:
            self.watcher.event(one, what)


def _result(future: "concurrent.futures.Future[Outcome]") -> Outcome:
    """What an attempt came to; a cluster may have lost it."""
    try:
        return future.result()
    except concurrent.futures.CancelledError as error:
        raise RunError("the Dask scheduler is gone; the same command goes on with the "
                       "sweep") from error  # fmt: skip
    except Exception as error:  # noqa: BLE001 - Dask's KilledWorker, or what a worker lacks
        return Outcome("lost", f"{type(error).__name__}: {error}")


def _look(one: Progress) -> None:
    """Read from its folder where a trial is."""
    if (one.folder / "summary.json").exists():
        try:
            run = load_run(one.folder)
        except RunError as error:
            one.status, one.reason = "failed", str(error)
            return
        test = run.summary["test"] if run.summary else None
        one.status, one.step = run.status, run.config.steps
        one.told = test and test[run.config.task.shown]
        return
    one.status = "running" if (one.folder / ".lock").exists() else "waiting"
    with contextlib.suppress(OSError, ValueError, IndexError, KeyError, TypeError):
        last = json.loads(_last_line(one.folder / "metrics.jsonl"))
        one.step, one.told = int(last["step"]), last[one.trial.config.task.shown]


def _last_line(path: Path, enough: int = 4096) -> bytes:
    """The last whole line of a file that may be long and growing."""
    with open(path, "rb") as stream:
        stream.seek(max(0, os.fstat(stream.fileno()).st_size - enough))
        return stream.read().split(b"\n")[-2]


def _create(out: Path, config: SweepConfig) -> None:
    """Make the folder and record the config; another sweep may be doing so at the same moment."""
    while True:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with atomic_files.lock(out):
                atomic_files.write_json(out / "sweep.json", config.model_dump(mode="json"))
            return
        except Busy:
            time.sleep(0.05)
        except OSError as error:
            raise RunError(f"{out} cannot be an output folder: {error.strerror}") from error


@contextlib.contextmanager
def _pool(config: SweepConfig) -> Iterator[Pool]:
    if config.dask is None:
        yield Local(_workers(config))
        return
    with connected(config.dask) as client:
        yield Cluster(client)


def _workers(config: SweepConfig) -> int:
    return config.workers or max(1, joblib.cpu_count() // (config.threads or 1))


def _threads(config: SweepConfig) -> int:
    """Of a trial whose preset leaves the number open: its share of the machine."""
    if config.threads or config.dask:
        return config.threads or 1
    return max(1, joblib.cpu_count() // _workers(config))


def describe(config: SweepConfig) -> dict[str, Any]:
    """Who will train, for people."""
    if config.dask:
        return {"dask": config.dask}
    return {"workers": _workers(config), "threads": _threads(config)}
