"""Files in folders that a stranger may have made: no links, no devices, nothing without bounds."""

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO
from unicodedata import category

JSON_BYTES = 16 << 20  # of a file of JSON
_DEEPEST = 100  # nested objects and lists


class UnsafeError(OSError):
    """A file that is refused: a link, no regular file, or too large."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(errno.EPERM, f"{path.name} {problem}", str(path))

    def __str__(self) -> str:
        return str(self.strerror)


def reason(error: OSError) -> str:
    """Why a call to the system failed, in one line; libraries raise errors without `strerror`."""
    return error.strerror or printable(str(error).partition("\n")[0]) or type(error).__name__


def descriptor(path: Path, flags: int = os.O_RDONLY, *, links: bool = False) -> int:
    """Open a regular file, through a symbolic link only with ``links``; never waits for a FIFO.

    Raises UnsafeError if it is a link or a device, or would be changed under another name, too.
    """
    flags |= os.O_NONBLOCK | os.O_NOCTTY | (0 if links else os.O_NOFOLLOW)
    try:
        number = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeError(path, "is a symbolic link, which is not followed") from error
        if error.errno == errno.ENXIO:  # a FIFO that nobody reads, a socket
            raise UnsafeError(path, "is no regular file") from error
        raise
    status = os.fstat(number)
    problem = None if stat.S_ISREG(status.st_mode) else "is no regular file"
    if not problem and flags & (os.O_WRONLY | os.O_RDWR) and status.st_nlink > 1:
        problem = "is a hard link: another name shares its content"
    if problem:
        os.close(number)
        raise UnsafeError(path, problem)
    return number


def read_bytes(path: Path, limit: int = JSON_BYTES) -> bytes:
    """The content of a regular file of at most ``limit`` bytes; OSError about any other."""
    with open(descriptor(path), "rb") as stream:
        if (size := os.fstat(stream.fileno()).st_size) > limit:
            raise UnsafeError(path, f"has {size:,} bytes, more than {limit:,}")
        return stream.read(size)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, which takes the name ``path`` at the end of a context without errors."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with open(os.open(temporary, flags, 0o666), "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)  # the renaming must reach the disk, too


def remove(folder: Path) -> None:
    """Remove a folder and all below it, without following links and however deep it is.

    Folders in it are first moved beside it, to ``.NAME.`` and random digits. What cannot be removed
    stays, without an error.
    """
    stem, pending = folder.name.lstrip("."), [folder.name]
    with contextlib.suppress(OSError), _opened(folder.parent) as beside:
        while pending:
            name = pending.pop()
            with contextlib.suppress(OSError), _opened(name, beside) as inside:
                for entry in os.listdir(inside):
                    moved = f".{stem}.{secrets.token_hex(8)}"
                    with contextlib.suppress(OSError):
                        if stat.S_ISDIR(os.lstat(entry, dir_fd=inside).st_mode):
                            os.rename(entry, moved, src_dir_fd=inside, dst_dir_fd=beside)
                            pending.append(moved)
                        else:
                            os.unlink(entry, dir_fd=inside)
                os.rmdir(name, dir_fd=beside)


@contextlib.contextmanager
def _opened(folder: Path | str, beside: int | None = None) -> Iterator[int]:
    """The descriptor of a folder, which is no link."""
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=beside)
    try:
        yield number
    finally:
        os.close(number)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def parse_json(data: bytes | str) -> Any:
    """A JSON value. Raises ValueError if it is none, has NaN or infinity, or is nested deeply."""
    text = data if isinstance(data, str) else data.decode()
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    level, depth = [value], 0
    while level := [child for item in level if isinstance(item, dict | list)
                    for child in (item.values() if isinstance(item, dict) else item)]:  # fmt: skip
        if (depth := depth + 1) > _DEEPEST:
            raise ValueError("it is nested too deeply")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def printable(text: str) -> str:
    r"""The text with control characters and lone surrogates escaped (``\x1b``)."""
    return "".join(ascii(c)[1:-1] if category(c)[0] == "C" else c for c in text)


def literal(text: str) -> str:
    """The printable text, in which matplotlib sees no mathematics."""
    return printable(text).replace("$", r"\$")
