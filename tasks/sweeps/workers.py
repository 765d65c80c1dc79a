"""Workers: each attempt at a trial is a process of its own, here or on a Dask cluster.

So a death affects one trial alone; joblib's lasting processes would all end. The process trains
while its standard input is open, and stops with a checkpoint when that is closed.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gatecore.tasks import missing
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import Config, ConfigError
from gatecore.tasks.training.folder_lock import Busy, is_locked
from gatecore.tasks.training.signals import Interrupted
from gatecore.tasks.training.trainer import train

GRACE = 60.0  # seconds in which a trial must stop
ANSWER = 10.0  # seconds in which a scheduler must answer
_BUSY, _STOPPED = 75, 76  # exit statuses of a trial's process
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_SHARED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # of torchrun; a trial does not share its batches


class Outcome(NamedTuple):
    """How an attempt ended: "done", "busy" (another process trains it), "stopped" or "died"."""

    kind: str
    reason: str = ""


class Order(NamedTuple):
    """The arguments of an attempt, in values that can be sent to another machine."""

    config: Mapping[str, Any]
    folder: str
    threads: int


def attempt(order: Order, stop: Callable[[], bool]) -> Outcome:
    """Train a trial, or continue it, in a process of its own, until it ends or ``stop()``."""
    if is_locked(Path(order.folder)):
        return Outcome("busy")
    if stop():
        return Outcome("stopped")
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-P", "-m", "gatecore.tasks.sweeps.workers"]
        inherited = {name: value for name, value in os.environ.items() if name not in _SHARED}
        environment = inherited | dict.fromkeys(_THREADS, str(order.threads))
        process = subprocess.Popen(  # in a session of its own: Ctrl-C reaches the sweep alone
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
            env=environment, start_new_session=True)  # fmt: skip
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it has died
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
            while process.poll() is None and not stop():
                time.sleep(0.1)
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.returncode and stop():
            return Outcome("stopped")
        errors.seek(0)
        lines = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return Outcome("died", f"its process was killed by {name}{hint}")
    kind = {0: "done", _BUSY: "busy", _STOPPED: "stopped"}.get(process.returncode, "died")
    return Outcome(kind, "" if kind == "done" else (lines or ["it printed no error"])[-1])


class Local:
    """Runs attempts on this machine, as many at a time as there are workers."""

    def __init__(self, workers: int) -> None:
        self._stop = threading.Event()
        self._threads = concurrent.futures.ThreadPoolExecutor(workers)

    def submit(self, order: Order) -> "concurrent.futures.Future[Outcome]":
        return self._threads.submit(attempt, order, self._stop.is_set)

    def stop(self) -> None:
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)


class Cluster:
    """Runs attempts on the workers of a Dask scheduler, which moves those of a worker that dies."""

    def __init__(self, client: Any) -> None:
        import distributed

        self._futures = client.get_executor(pure=False)
        self._event = f"gatecore-{uuid.uuid4().hex}"
        self._stop = distributed.Event(self._event, client=client)
        self._submitted: list[concurrent.futures.Future[Outcome]] = []

    def submit(self, order: Order) -> "concurrent.futures.Future[Outcome]":
        future = self._futures.submit(_attempt_on_worker, order, self._event)
        self._submitted.append(future)
        return future

    def stop(self) -> None:
        with contextlib.suppress(OSError):  # the scheduler may be gone
            self._stop.set()
            concurrent.futures.wait(self._submitted, timeout=GRACE)


def _attempt_on_worker(order: Order, event: str) -> Outcome:
    """On a worker of a cluster: stops when the event is set, which it looks up once a second."""
    import distributed

    stopping, looked_up, answer = distributed.Event(event), -math.inf, False

    def stop() -> bool:
        nonlocal looked_up, answer
        if not answer and time.monotonic() - looked_up > 1:
            looked_up, answer = time.monotonic(), bool(stopping.is_set())
        return answer

    if not Path(order.folder).parent.is_dir():
        return Outcome("died", f"a worker on {os.uname().nodename} sees no folder "
                       f"{Path(order.folder).parent}: all workers must share it")  # fmt: skip
    return attempt(order, stop)


Pool = Local | Cluster


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """A Dask client. Raises ConfigError if Dask is not installed or no scheduler answers."""
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ConfigError(str(missing(error, "sweeps"))) from error

    async def identity() -> None:  # a client would wait for a silent scheduler without end
        arguments = distributed.Security().get_connection_args("client")
        rpc = distributed.rpc(address, connection_args=arguments, deserialize=False)
        async with rpc as scheduler:
            await asyncio.wait_for(scheduler.identity(), ANSWER)

    try:
        with concurrent.futures.ThreadPoolExecutor(1) as thread:  # here a loop may be running
            thread.submit(asyncio.run, identity()).result()
        client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, TypeError, MemoryError, RuntimeError) as error:
        why = f" ({str(error).splitlines()[0]})" if str(error) else ""  # a timeout has none
        raise ConfigError(f"dask={address!r}: no scheduler answers there within {ANSWER:g} s{why}"
                          "; an address looks like tcp://127.0.0.1:8786") from error  # fmt: skip
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it logs a lost scheduler with tracebacks
    try:
        yield client
    finally:
        with contextlib.suppress(OSError):
            client.close(timeout=5)
        logger.setLevel(level)


def main() -> None:
    """Run one attempt, whose order is a line on standard input."""
    with open(0, "rb", buffering=0, closefd=False) as stream:
        order = Order(*json.loads(stream.readline()))
    threading.Thread(target=_watch, daemon=True).start()
    try:
        train(Config.model_validate(order.config), order.folder, resume=True)
    except (ConfigError, Interrupted, RunError) as error:
        print(error, file=sys.stderr)
        statuses = {Busy: _BUSY, Interrupted: _STOPPED}
        raise SystemExit(statuses.get(type(error), 1)) from error


def _watch() -> None:
    """Stop the training when standard input ends, after ``GRACE`` seconds even within a step."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(_STOPPED)


if __name__ == "__main__":
    main()
