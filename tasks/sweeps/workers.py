"""A trial in a process of its own, here or on a Dask cluster.

Every attempt is a fresh process, watched by a thread: of this process, or of a Dask worker. A pool
of lasting processes would be shorter, but joblib's (loky) breaks as a whole when one of them is
killed, and takes the others' unsaved minutes with it. So a death costs one trial alone; the
process's memory and threads are its own; and a worker of a cluster survives a trial that ran out of
memory. The process trains for as long as its standard input is open: it stops with a checkpoint
when told so, or when whoever started it is gone.
"""

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
from typing import Any, NamedTuple, Protocol

from gatecore.tasks.training.atomic_files import is_locked
from gatecore.tasks.training.config import Config, ConfigError
from gatecore.tasks.training.run_folder import Busy, RunError
from gatecore.tasks.training.trainer import Interrupted, train

GRACE = 60.0  # seconds that a trial has for its step in progress when it is to stop
ANSWER = 10.0  # seconds that a scheduler has to answer
_BUSY, _STOPPED = 75, 76  # exit statuses of a trial's process
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_SHARED = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # torchrun's: a trial shares its batches with nobody


class Outcome(NamedTuple):
    """How an attempt ended: "done", "busy" (another process trains it), "stopped" or "died"."""

    kind: str
    reason: str = ""


class Order(NamedTuple):
    """What an attempt needs; plain values, since it may travel."""

    config: Mapping[str, Any]
    folder: str
    threads: int


class Pool(Protocol):
    """Where attempts run."""

    def submit(self, order: Order) -> "concurrent.futures.Future[Outcome]":
        """Begin an attempt as soon as a worker is free."""

    def stop(self) -> None:
        """Have all attempts stop with a checkpoint; those not begun are dropped."""


def attempt(order: Order, stop: Callable[[], bool]) -> Outcome:
    """Train a trial, or go on with it, in a process of its own until it ends or ``stop()``."""
    if is_locked(Path(order.folder)):
        return Outcome("busy")
    if stop():
        return Outcome("stopped")
    with tempfile.TemporaryFile() as errors:
        command = [sys.executable, "-P", "-m", "gatecore.tasks.sweeps.workers"]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors,
            env=_environment(order.threads),
            start_new_session=True,  # Ctrl-C in the terminal reaches the sweep alone
        )  # fmt: skip
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it died already
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
            while process.poll() is None and not stop():
                time.sleep(0.1)
        finally:
            _end(process)
        if process.returncode and stop():
            return Outcome("stopped")
        errors.seek(0)
        return _outcome(process.returncode, errors.read().decode(errors="replace"))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Tell it to stop, and see that it does."""
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()  # type: ignore[union-attr]
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _outcome(status: int, said: str) -> Outcome:
    lines = said.strip().splitlines() or ["it said nothing"]
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return Outcome("died", f"its process was killed by {name}{hint}")
    kinds = {0: "done", _BUSY: "busy", _STOPPED: "stopped"}
    return Outcome(kinds.get(status, "died"), "" if status == 0 else lines[-1])


def _environment(threads: int) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in _SHARED}
    return inherited | dict.fromkeys(_THREADS, str(threads))


class Local:
    """Attempts on this machine."""

    def __init__(self, workers: int) -> None:
        self._stop = threading.Event()
        self._threads = concurrent.futures.ThreadPoolExecutor(workers)

    def submit(self, order: Order) -> "concurrent.futures.Future[Outcome]":
        """Begin an attempt as soon as a worker is free."""
        return self._threads.submit(attempt, order, self._stop.is_set)

    def stop(self) -> None:
        """Have all attempts stop with a checkpoint, and wait for them."""
        self._stop.set()
        self._threads.shutdown(cancel_futures=True)


class Cluster:
    """Attempts on the workers of a Dask scheduler, as many on each as it has threads."""

    def __init__(self, client: Any) -> None:
        import distributed

        self._client, self._futures = client, client.get_executor(pure=False)
        self._event = f"gatecore-{uuid.uuid4().hex}"
        self._stop = distributed.Event(self._event, client=client)
        self._submitted: list[concurrent.futures.Future[Outcome]] = []

    def submit(self, order: Order) -> "concurrent.futures.Future[Outcome]":
        """Begin an attempt as soon as a worker is free; Dask moves it when its worker dies."""
        future = self._futures.submit(_attempt_there, order, self._event)
        self._submitted.append(future)
        return future

    def stop(self) -> None:
        """Have all attempts stop with a checkpoint."""
        with contextlib.suppress(OSError):  # the scheduler may be what is gone
            self._stop.set()
            concurrent.futures.wait(self._submitted, timeout=GRACE)


def _attempt_there(order: Order, event: str) -> Outcome:
    """On a worker of a cluster: stops when the event is set."""
    import distributed

    asked, answer = -math.inf, False

    def stop() -> bool:
        nonlocal asked, answer
        if not answer and time.monotonic() - asked > 1:
            asked, answer = time.monotonic(), bool(stopped.is_set())
        return answer

    stopped = distributed.Event(event)
    if not Path(order.folder).parent.is_dir():
        return Outcome("died", f"a worker on {os.uname().nodename} sees no folder "
                       f"{Path(order.folder).parent}: all must share it")  # fmt: skip
    return attempt(order, stop)


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """A Dask client. Raises ConfigError if Dask is missing or no scheduler answers."""
    try:
        import distributed
    except ModuleNotFoundError as error:
        raise ConfigError("a sweep on a cluster needs dask.distributed, which is not installed: "
                          "pip install 'gatecore[sweeps]'") from error  # fmt: skip
    try:
        client = distributed.Client(address, timeout=ANSWER, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:  # TimeoutError is an OSError
        raise ConfigError(f"dask={address!r}: no scheduler answers there; an address looks like "
                          "tcp://host:8786") from error  # fmt: skip
    logger = logging.getLogger("distributed.client")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it tells a lost scheduler by tracebacks; we by a message
    try:
        yield client
    finally:
        with contextlib.suppress(OSError):
            client.close(timeout=5)
        logger.setLevel(level)


def main() -> None:
    """The process of one attempt: an order comes as a line on standard input."""
    with open(0, "rb", buffering=0, closefd=False) as stream:
        order = Order(*json.loads(stream.readline()))
    threading.Thread(target=_watch, daemon=True).start()
    try:
        train(Config.model_validate(order.config), order.folder, resume=True)
    except Busy as error:
        _exit(_BUSY, error)
    except Interrupted as error:
        _exit(_STOPPED, error)
    except (ConfigError, RunError) as error:
        _exit(1, error)


def _watch() -> None:
    """Stop the training when standard input ends; a step that takes too long is torn."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os._exit(_STOPPED)


def _exit(status: int, error: Exception) -> None:
    print(error, file=sys.stderr)
    raise SystemExit(status)


if __name__ == "__main__":
    main()
