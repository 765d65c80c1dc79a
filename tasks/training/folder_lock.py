"""A lock on a run's folder: one process trains there at a time."""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from gatecore.tasks.safe_files import descriptor, printable
from gatecore.tasks.training.atomic_files import RunError

_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # by the file system


class Busy(RunError):
    """Another process trains in this folder."""


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a folder until the context ends or its process dies; Busy if another one has it."""
    path = folder / ".lock"
    while True:
        number = descriptor(path, os.O_RDWR | os.O_CREAT)
        try:
            if not _locked(number, folder):
                continue  # the former owner has removed the file: open the present one
            try:
                os.ftruncate(number, 0)
                os.write(number, f"{socket.gethostname()}, process {os.getpid()}".encode())
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(number)


def is_locked(folder: Path) -> bool:
    """Whether another process trains in a folder now."""
    try:
        with lock(folder) if (folder / ".lock").exists() else contextlib.nullcontext():
            return False
    except Busy:
        return True


def _locked(number: int, folder: Path) -> bool:
    """Lock an open file; False if it is no longer the one in the folder."""
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = printable(os.pread(number, 200, 0).decode(errors="replace"))
        raise Busy(f"{folder} is being trained by another process ({owner}): wait for it, or "
                   "choose another output folder") from error  # fmt: skip
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        warnings.warn(f"the file system of {folder} has no locks: make sure that one process at a "
                      "time trains there", stacklevel=5)  # fmt: skip
    try:
        return os.path.samestat(os.fstat(number), os.stat(folder / ".lock"))
    except FileNotFoundError:
        return False
