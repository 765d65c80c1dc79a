"""Readers of MNIST's IDX files and CIFAR-10's batches. Nothing in the files is executed."""

import contextlib
import gzip
import pickle
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gatecore.tasks.problems.data_files import DataError, readable

CLASSES = 10
_RECORD = 1 + 3 * 1024  # bytes of CIFAR-10's binary version: a label, then red, green, blue planes
_IDX = {2051: 3, 2049: 1}  # magic number: dimensions, of unsigned bytes
_UNPICKLING_ERRORS = (pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError,
                      KeyError, TypeError, ValueError, OverflowError, MemoryError, RecursionError,
                      zlib.error)  # fmt: skip
_SUBFOLDERS = ("", "MNIST/raw", "raw", "cifar-10-batches-bin", "cifar-10-batches-py")


class Images(NamedTuple):
    """``pixels`` (images, steps, channels), uint8 or float32 in [0, 1], and int ``labels``."""

    pixels: np.ndarray
    labels: np.ndarray


def mnist(folder: Path) -> tuple[Images, Images]:
    """Training and test images (n, 784, 1) of IDX files with MNIST's names, plain or .gz.

    Raises DataError, as all readers of this module, if a file is missing or damaged.
    """
    parts = []
    for part in ("train", "t10k"):
        images, labels = (
            _find(folder, [f"{part}-{name}{mark}{kind}-ubyte" for mark in "-."])
            for name, kind in (("images", "idx3"), ("labels", "idx1"))
        )
        pixels, classes = read_idx(images, 2051), read_idx(labels, 2049)
        if pixels.shape[1:] != (28, 28):
            size = " x ".join(map(str, pixels.shape[1:]))
            raise DataError(images, f"images of {size} pixels", "28 x 28")
        _check_labels(images, len(pixels), labels, classes)
        parts.append(Images(pixels.reshape(-1, 784, 1), classes.astype(np.int64)))
    return parts[0], parts[1]


def cifar10(folder: Path) -> tuple[Images, Images]:
    """Training and test images (n, 1024, 3) of CIFAR-10, binary or Python version."""
    parts = []
    for names in ([f"data_batch_{k}" for k in range(1, 6)], ["test_batch"]):
        batches = [_cifar_batch(_find(folder, [f"{name}.bin", name])) for name in names]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        planes = pixels.reshape(-1, 3, 1024)
        parts.append(Images(np.ascontiguousarray(planes.swapaxes(1, 2)), labels.astype(np.int64)))
    return parts[0], parts[1]


def _find(folder: Path, names: list[str]) -> Path:
    """The first existing file, plain or compressed, in ``folder`` or a usual subfolder."""
    for subfolder in _SUBFOLDERS:
        for name in names:
            for path in (folder / subfolder / name, folder / subfolder / f"{name}.gz"):
                if path.is_file():
                    return path
    raise DataError(folder, f"no {names[0]}", f"a file {' or '.join(names)}, plain or .gz")


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The uint8 array of an IDX file with this magic number (2051: images, 2049: labels)."""
    size = 4 * (1 + _IDX[magic])
    with _open(path, f"an IDX file with magic number {magic}") as file:
        header = _read(file, size)
        if len(header) < size:
            raise DataError(path, f"{len(header)} bytes", f"a header of {size}")
        number, *shape = (int.from_bytes(header[k : k + 4]) for k in range(0, size, 4))
        if number != magic:
            raise DataError(path, f"the magic number {number}", str(magic))
        expected = int(np.prod(shape, dtype=object))
        content = _read(file, expected + 1)
    if len(content) != expected:
        count = "more" if len(content) > expected else str(len(content))
        needed = f"{expected}, for the shape {tuple(shape)}"
        raise DataError(path, f"{count} bytes after the header", needed)
    return np.frombuffer(content, np.uint8).reshape(shape)


@contextlib.contextmanager
def _open(path: Path, expected: str) -> Iterator[BinaryIO]:
    """An open file, decompressed; errors of reading it become :class:`DataError`."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    with readable(path, expected), opener(path, "rb") as file:
        try:
            yield file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            detail = str(error).rstrip(".")
            raise DataError(path, f"damaged gzip data ({detail})", "a complete .gz file") from error


def _read(file: BinaryIO, size: int) -> bytes:
    """At most ``size`` bytes, in parts: a damaged header may ask for more than memory holds."""
    parts = []
    while size and (part := file.read(min(size, 1 << 24))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _check_labels(images: Path, count: int, labels: Path, classes: np.ndarray) -> None:
    """Raise DataError unless there are images, and a label in 0..9 for each."""
    if len(classes) != count:
        raise DataError(labels, f"{len(classes)} labels", f"{count}, one per image of {images}")
    if not count:
        raise DataError(images, "no images", "at least one")
    for label in (int(classes.max()), int(classes.min())):
        if not 0 <= label < CLASSES:
            raise DataError(labels, f"the label {label}", f"labels in 0..{CLASSES - 1}")


def _cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072), planes of red, green and blue, and labels (n,)."""
    binary = path.name.removesuffix(".gz").endswith(".bin")
    pixels, labels = _cifar_binary(path) if binary else _cifar_pickled(path)
    _check_labels(path, len(pixels), path, labels)
    return pixels, labels


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with _open(path, "a batch of CIFAR-10, binary version") as file:
        content = _read(file, 1 << 30)
    if not content or len(content) % _RECORD:
        expected = f"a multiple of {_RECORD}: a label and 3072 pixels each"
        raise DataError(path, f"{len(content)} bytes", expected)
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


def _cifar_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    expected = "a batch of CIFAR-10, Python version"
    with _open(path, expected) as file:
        try:
            batch = _Unpickler(file).load()
        except _UNPICKLING_ERRORS as error:
            detail = str(error) or type(error).__name__
            raise DataError(path, f"a pickle that is refused: {detail}", expected) from error
    entries = batch if isinstance(batch, dict) else {}
    array, labels = entries.get(b"data"), entries.get(b"labels")
    pixels = array.values if isinstance(array, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3072:
        shape = "no array" if pixels is None else f"an array of shape {pixels.shape}"
        raise DataError(path, f"{shape} as 'data'", "one of bytes, (images, 3072)")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(path, "no list of integers as 'labels'", "one, with a label per image")
    if any(abs(label) > 1 << 31 for label in labels):
        raise DataError(path, "labels beyond 32 bits", f"labels in 0..{CLASSES - 1}")
    return pixels, np.array(labels, np.int64)


class _Array:
    """Stand-in for a pickled NumPy array; it accepts bytes and a shape, and nothing else."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        if not isinstance(dtype, _Dtype) or fortran or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of other things than bytes")
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


class _Dtype:
    """Stand-in for the dtype of bytes; it ignores the byte order and the like."""

    def __setstate__(self, state: Any) -> None: ...


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings, numbers and arrays of bytes, and refuses the rest."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")
        self._stand_ins = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._stand_ins:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._stand_ins[module, name]


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    """Functions, of which a pickle makes no instances; new for each, as it can set attributes."""

    def array(*arguments: Any) -> _Array:
        return _Array()

    def dtype(name: Any = None, *arguments: Any) -> _Dtype:
        if name not in (b"u1", "u1", b"|u1", "|u1"):
            raise pickle.UnpicklingError(f"an array of dtype {name!r}, not of bytes")
        return _Dtype()

    def ndarray(*arguments: Any) -> None:
        raise pickle.UnpicklingError("it calls numpy.ndarray")

    arrays = {(f"numpy.{core}.multiarray", "_reconstruct"): array for core in ("core", "_core")}
    return {**arrays, ("numpy", "dtype"): dtype, ("numpy", "ndarray"): ndarray}
