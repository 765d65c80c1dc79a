"""Clean stops: SIGINT and SIGTERM end a run between two steps."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


class Interrupted(Exception):
    """A signal stopped the run after its step in progress; a checkpoint holds that step."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list; the second one raises KeyboardInterrupt."""
    received: list[int] = []

    def remember(signum: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return
    former = {signum: signal.signal(signum, remember) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)
