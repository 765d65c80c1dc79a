"""Files that are replaced atomically and carry a checksum of their content.

A process that is killed leaves the old file or the new one. Reading a truncated, edited or damaged
file is an error, and executes nothing.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from gatecore.tasks.safe_files import UnsafeError, parse_json, read_bytes, reason, replacing

CHECKSUM = "sha256"
_ENTRY = "gatecore"  # in the metadata of safetensors
_HEADER_BYTES = 32 << 20


class RunError(Exception):
    """A run's folder cannot be used; the message names the file and says what to do."""


class DamagedError(RunError):
    """A file was changed, is damaged, or belongs to another run."""

    def __init__(self, path: Path, problem: str,
                 advice: str = "restore the file, or train in a new folder") -> None:  # fmt: skip
        super().__init__(f"{path} {problem}; {advice}")


class WriteError(RunError):
    """A file cannot be written: a full disk, a missing permission, a link."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise the operating system's errors as a WriteError that names ``path``."""
    try:
        yield
    except UnsafeError as error:
        raise WriteError(f"cannot write {path}: {error}; remove it") from error
    except OSError as error:
        raise WriteError(f"cannot write {path}: {reason(error)}; check the disk's free space and "
                         "the permissions there") from error  # fmt: skip


@contextlib.contextmanager
def output_folder(path: Path) -> Iterator[None]:
    """Raise the operating system's errors as a RunError about an output folder."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} cannot be an output folder: {reason(error)}; choose another "
                       "one") from error  # fmt: skip


def replace(path: Path, *data: bytes | memoryview) -> None:
    """Replace a file atomically by the parts of its content. Raises WriteError."""
    with writing(path), replacing(path) as stream:
        stream.writelines(data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a file by a JSON object with its checksum; NaN and infinity become null."""
    plain = finite(value)
    signed = plain | {CHECKSUM: digest(plain)}
    replace(path, (json.dumps(signed, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object of a file, its checksum unverified. Raises DamagedError if it holds none."""
    try:
        value = parse_json(read_bytes(path))
    except (OSError, ValueError) as error:
        raise DamagedError(path, f"cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise DamagedError(path, f"should hold a JSON object, not {type(value).__name__}")
    return value


def verify(path: Path, value: Mapping[str, Any], *, unsigned: bool = False) -> dict[str, Any]:
    """The object without its checksum, which must match; only with ``unsigned`` it may lack."""
    content = {name: item for name, item in value.items() if name != CHECKSUM}
    if CHECKSUM in value:
        _compare(path, value[CHECKSUM], digest(content))
    elif not unsigned:
        raise DamagedError(path, f"has no {CHECKSUM}", upgrading(path))
    return content


def digest(value: Any) -> str:
    """The SHA-256 of a JSON value, independent of the order of its names."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    """Replace a safetensors file; its metadata holds ``about`` and a checksum of everything."""
    # both in one entry: several would have no fixed order; no tensor is copied
    arrays = {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}
    plain = finite(about)
    signed = json.dumps(plain | {CHECKSUM: _digest(arrays, plain)})
    header: dict[str, Any] = {"__metadata__": {_ENTRY: signed}}
    arrays = dict(sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])))
    start = 0
    for name, array in arrays.items():
        kind = f"{array.dtype.kind.upper()}{8 * array.itemsize}" if array.dtype != bool else "BOOL"
        end = start + array.nbytes
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    data = (array.reshape(-1).view(np.uint8).data for array in arrays.values())
    replace(path, len(text).to_bytes(8, "little"), text, *data)


def read_tensors(
    path: Path, *, limit: int = 1 << 40, unsigned: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors of a safetensors file, of at most ``limit`` bytes, and the object about them.

    With ``unsigned`` a file may lack metadata, as early versions wrote it. Raises DamagedError if
    it cannot be read, is damaged, or was written by another program.
    """
    try:
        data = read_bytes(path, limit + _HEADER_BYTES)
        length = int.from_bytes(data[:8], "little")
        if length > _HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes")
        header = parse_json(data[8 : 8 + length])
        tensors = safetensors.numpy.load(data)
        metadata = header.get("__metadata__") or {}
    except (OSError, safetensors.SafetensorError, AttributeError, KeyError, TypeError,
            ValueError) as error:  # the last four: tensors of a type that NumPy lacks  # fmt: skip
        raise DamagedError(path, f"cannot be read: {error}") from error
    if unsigned and not metadata:
        return tensors, {}
    try:
        about = parse_json(metadata[_ENTRY])
        checksum = about.pop(CHECKSUM)
    except (KeyError, ValueError, AttributeError, TypeError) as error:
        problem = f"was not written by this version of gatecore: it has no {CHECKSUM}"
        raise DamagedError(path, problem, upgrading(path)) from error
    _compare(path, checksum, _digest(tensors, about))
    return tensors, about


def upgrading(path: Path) -> str:
    """Where a checksum is missing."""
    return f"if an early version of gatecore wrote it for you, run: gatecore upgrade {path.parent}"


def _compare(path: Path, recorded: Any, computed: str) -> None:
    if recorded != computed:
        raise DamagedError(path, f"was changed or damaged: its {CHECKSUM} does not match")


def _digest(tensors: Mapping[str, np.ndarray], about: Any) -> str:
    checksum = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        array = tensors[name]
        checksum.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        checksum.update(array.data if array.size else b"")
    return checksum.hexdigest()


def finite(value: Any) -> Any:
    """The value with null for NaN and infinity, which JSON lacks, and lists for tuples."""
    if isinstance(value, Mapping):
        return {str(name): finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
