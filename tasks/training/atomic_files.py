"""Files that are replaced atomically and carry a checksum of their content.

A process that is killed leaves the old file or the new one. Reading a truncated, edited or damaged
file is an error, and executes nothing.
"""

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

CHECKSUM = "sha256"
_ENTRY = "gatecore"  # in the metadata of safetensors


class RunError(Exception):
    """A run's folder cannot be used; the message names the file and says what to do."""


class DamagedError(RunError):
    """A file was changed, is damaged, or belongs to another run."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}; restore the file, or train in a new folder")


class WriteError(RunError):
    """A file cannot be written: a full disk, a missing permission."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise the operating system's errors as a WriteError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}; check the disk's free space and "
                         "the permissions there") from error  # fmt: skip


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Raise the operating system's errors as a RunError about an output folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be an output folder: {error.strerror}; choose another "
                       "one") from error  # fmt: skip


def replace(path: Path, data: bytes) -> None:
    """Replace a file atomically. Raises WriteError if it cannot be written."""
    temporary = path.with_name(f".{path.name}.part")  # overwrites one of a killed process
    with writing(path):
        try:
            with open(temporary, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)  # the renaming must reach the disk, too


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object with its checksum; NaN and infinity become null."""
    plain = finite(value)
    signed = plain | {CHECKSUM: digest(plain)}
    replace(path, (json.dumps(signed, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, with its checksum unverified.

    Raises
    ------
    DamagedError
        The file cannot be read, or does not hold an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DamagedError(path, f"cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DamagedError(path, f"should hold a JSON object, not {type(value).__name__}")
    return value


def verify(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """The object without its checksum. Raises DamagedError if that does not match."""
    content = {name: item for name, item in value.items() if name != CHECKSUM}
    if CHECKSUM in value:
        _compare(path, value[CHECKSUM], digest(content))
    return content


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Replace a safetensors file; its metadata holds ``about`` and a checksum of everything.

    One entry of the metadata holds both: safetensors writes several in no fixed order.
    """
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    plain = finite(about)
    signed = json.dumps(plain | {CHECKSUM: _digest(arrays, plain)})
    replace(path, safetensors.numpy.save(arrays, metadata={_ENTRY: signed}))


def read_tensors(
    path: Path, *, unsigned: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a safetensors file, and the object about them.

    Parameters
    ----------
    path : Path
    unsigned : bool
        Accept a file without metadata, as early versions of gatecore wrote it.

    Raises
    ------
    DamagedError
        The file cannot be read, is damaged, or was written by another program.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except (OSError, safetensors.SafetensorError, AttributeError, KeyError, TypeError,
            ValueError) as error:  # the last four: tensors of a type that NumPy lacks  # fmt: skip
        raise DamagedError(path, f"cannot be read: {error}") from error
    if unsigned and not metadata:
        return tensors, {}
    try:
        about = json.loads(metadata[_ENTRY])
        checksum = about.pop(CHECKSUM)
    except (KeyError, ValueError, RecursionError, AttributeError, TypeError) as error:
        problem = f"was not written by this version of gatecore: it has no {CHECKSUM}"
        raise DamagedError(path, problem) from error
    _compare(path, checksum, _digest(tensors, about))
    return tensors, about


def _compare(path: Path, recorded: Any, computed: str) -> None:
    if recorded != computed:
        raise DamagedError(path, f"was changed or damaged: its {CHECKSUM} does not match")


def _digest(tensors: Mapping[str, np.ndarray], about: Any) -> str:
    checksum = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        checksum.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        checksum.update(array.tobytes())
    return checksum.hexdigest()


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks, and lists for tuples."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
