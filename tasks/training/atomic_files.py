"""Files that a kill cannot tear and that tell when they were damaged.

Each is replaced in one step, and carries a checksum of its content: a file that was cut, edited or
hit by a bad disk is refused, never read as something else. Nothing is executed when one is loaded.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import socket
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

CHECKSUM = "sha256"
_ENTRY = "gatecore"  # in the metadata of safetensors
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL)  # of a file system


class RunError(Exception):
    """A run's folder that cannot be used; the message names it and says what to do."""


class Busy(RunError):
    """Another process trains in this folder."""


class WriteError(RunError):
    """A file that cannot be written: a full disk, a lost permission."""


def replace(path: Path, data: bytes) -> None:
    """Replace a file in one step: a kill at any moment leaves the old one or the new one."""
    temporary = path.with_name(f".{path.name}.part")  # what a killed run left is written over
    try:
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}") from error


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object and its checksum; what is not finite becomes null."""
    signed = signature(value)
    replace(path, (json.dumps(signed, indent=2) + "\n").encode())


def signature(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same object with its checksum, in values that JSON knows."""
    plain = finite(value)
    return plain | {CHECKSUM: digest(plain)}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object without its checksum.

    Raises
    ------
    RunError
        The file cannot be read, or holds no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} should hold a JSON object, not {type(value).__name__}")
    return value


def verify(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its checksum, if that fits it or there is none; RunError otherwise."""
    rest = {name: item for name, item in value.items() if name != CHECKSUM}
    if CHECKSUM in value and value[CHECKSUM] != digest(rest):
        raise RunError(f"{path} was changed or damaged: its content has another {CHECKSUM} than "
                       "it says")  # fmt: skip
    return rest


def digest(value: Any) -> str:
    """The SHA-256 of a value that JSON knows, whatever the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Replace a safetensors file that carries an object about it and a checksum of both.

    They are one entry of the metadata: safetensors writes several in no fixed order.
    """
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    plain = finite(about)
    signed = json.dumps(plain | {CHECKSUM: _digest(arrays, plain)})
    replace(path, safetensors.numpy.save(arrays, metadata={_ENTRY: signed}))


def read_tensors(
    path: Path, *, unsigned: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Tensors, and the object about them, of a safetensors file. Raises RunError if damaged.

    ``unsigned``: a file without metadata, as gatecore once wrote them, is taken as well.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError, AttributeError, KeyError, TypeError,
            ValueError) as error:  # the last four: tensors of a type that NumPy lacks  # fmt: skip
        raise RunError(f"{path} cannot be read: {error}") from error
    if unsigned and not metadata:
        return tensors, {}
    try:
        about = json.loads(metadata[_ENTRY])
        claimed = about.pop(CHECKSUM)
    except (KeyError, ValueError, RecursionError, AttributeError, TypeError) as error:
        raise RunError(f"{path} was not written by this version of gatecore, or is damaged: it "
                       f"carries no {CHECKSUM}") from error  # fmt: skip
    if claimed != _digest(tensors, about):
        raise RunError(f"{path} was changed or damaged: its content has another {CHECKSUM} than "
                       "it says")  # fmt: skip
    return tensors, about


def _digest(tensors: Mapping[str, np.ndarray], about: Any) -> str:
    found = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        found.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        found.update(array.tobytes())
    return found.hexdigest()


def finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder. The lock dies with its process.

    Raises
    ------
    Busy
        Another process, perhaps on another machine, has it.
    """
    path = folder / ".lock"
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _locked(descriptor, folder):
                continue  # who had it removed the file meanwhile: there may be a new one
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{socket.gethostname()}, process {os.getpid()}".encode())
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return
        finally:
            os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether another process trains in a folder now."""
    if not (folder / ".lock").exists():
        return False
    try:
        with lock(folder):
            return False
    except Busy:
        return True


def _locked(descriptor: int, folder: Path) -> bool:
    """Lock the open file; False if it is no longer the one in the folder."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        owner = os.pread(descriptor, 200, 0).decode(errors="replace")
        raise Busy(f"{folder} is being trained by another process ({owner}): wait for it, or "
                   "choose another output folder") from error  # fmt: skip
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        warnings.warn(f"the file system of {folder} has no locks: see that no two processes train "
                      "there", stacklevel=5)  # fmt: skip
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(folder / ".lock"))
    except FileNotFoundError:
        return False


def _sync_folder(folder: Path) -> None:
    """The rename itself must reach the disk, too."""
    directory = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
