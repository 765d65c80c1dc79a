"""Image files: MNIST's IDX format and CIFAR-10's batches. Nothing in them is executed."""

import gzip
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from gatecore.tasks.problems.data_files import DataError, readable

CLASSES = 10
_RECORD = 1 + 3 * 1024  # of CIFAR-10's binary version: a label, then red, green and blue
_IDX = {2051: 3, 2049: 1}  # magic number: dimensions, of unsigned bytes
_GARBLED = (
    pickle.UnpicklingError, AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError,
    ValueError, OverflowError, MemoryError, RecursionError, zlib.error,
)  # fmt: skip


class Images(NamedTuple):
    """``pixels`` (images, steps, channels), uint8, or float32 in [0, 1]; ``labels`` (images,)."""

    pixels: np.ndarray
    labels: np.ndarray


def mnist(folder: Path) -> tuple[Images, Images]:
    """Training and test images of IDX files, plain or .gz, under MNIST's names: (n, 784, 1).

    Raises
    ------
    DataError
        A file that is missing, or is not what its name says.
    """
    parts = []
    for part in ("train", "t10k"):
        images = _first(folder, [f"{part}-images-idx3-ubyte", f"{part}-images.idx3-ubyte"])
        labels = _first(folder, [f"{part}-labels-idx1-ubyte", f"{part}-labels.idx1-ubyte"])
        pixels, truth = read_idx(images, 2051), read_idx(labels, 2049)
        if pixels.shape[1:] != (28, 28):
            size = " x ".join(map(str, pixels.shape[1:]))
            raise DataError(images, f"images of {size} pixels", "28 x 28")
        _check(images, len(pixels), labels, truth)
        parts.append(Images(pixels.reshape(-1, 784, 1), truth.astype(np.int64)))
    return parts[0], parts[1]


def cifar10(folder: Path) -> tuple[Images, Images]:
    """Training and test images of CIFAR-10, its binary or its Python version: (n, 1024, 3).

    Raises
    ------
    DataError
        A file that is missing, or is not what its name says.
    """
    parts = []
    for names in ([f"data_batch_{k}" for k in range(1, 6)], ["test_batch"]):
        batches = [_cifar_batch(_first(folder, [f"{name}.bin", name])) for name in names]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        planes = pixels.reshape(-1, 3, 1024)
        parts.append(Images(np.ascontiguousarray(planes.swapaxes(1, 2)), labels.astype(np.int64)))
    return parts[0], parts[1]


_INSIDE = ("", "MNIST/raw", "raw", "cifar-10-batches-bin", "cifar-10-batches-py")


def _first(folder: Path, names: list[str]) -> Path:
    """The first file that is there, perhaps compressed, perhaps in a folder as it is unpacked."""
    for inside in _INSIDE:
        for name in names:
            for path in (folder / inside / name, folder / inside / f"{name}.gz"):
                if path.is_file():
                    return path
    raise DataError(folder, f"no {names[0]}", f"a file {' or '.join(names)}, there or as .gz")


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The uint8 array of an IDX file with this magic number (2051: images, 2049: labels)."""
    size = 4 * (1 + _IDX[magic])
    with readable(path, f"an IDX file with magic number {magic}"), _opened(path) as file:
        header = _read(path, file, size)
        if len(header) < size:
            raise DataError(path, f"{len(header)} bytes", f"a header of {size}")
        found, *shape = (int.from_bytes(header[k : k + 4]) for k in range(0, size, 4))
        if found != magic:
            raise DataError(path, f"the magic number {found}", str(magic))
        expected = int(np.prod(shape, dtype=object))
        content = _read(path, file, expected + 1)
    if len(content) != expected:
        there = "more" if len(content) > expected else str(len(content))
        raise DataError(
            path, f"{there} bytes after the header", f"{expected}, for the shape {tuple(shape)}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb")


def _read(path: Path, file: BinaryIO, size: int) -> bytes:
    """At most ``size`` bytes, in parts: a header may ask for more than there is."""
    parts, left = [], size
    try:
        while left and (part := file.read(min(left, 1 << 24))):
            parts.append(part)
            left -= len(part)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        told = str(error).rstrip(".")
        raise DataError(path, f"damaged gzip data ({told})", "a complete .gz file") from error
    return b"".join(parts)


def _check(images: Path, count: int, labels: Path, truth: np.ndarray) -> None:
    """Whether there is a label in 0..9 for each image, and any at all."""
    if len(truth) != count:
        raise DataError(labels, f"{len(truth)} labels", f"{count}, one for each image of {images}")
    if not count:
        raise DataError(images, "no images", "some")
    if (largest := int(truth.max())) >= CLASSES or int(truth.min()) < 0:
        wrong = largest if largest >= CLASSES else int(truth.min())
        raise DataError(labels, f"the label {wrong}", f"labels in 0..{CLASSES - 1}")


# --- CIFAR-10 -----------------------------------------------------------------------------------


def _cifar_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (n, 3072), planes of red, green and blue, and labels (n,)."""
    binary = path.name.removesuffix(".gz").endswith(".bin")
    pixels, labels = _cifar_binary(path) if binary else _cifar_pickled(path)
    _check(path, len(pixels), path, labels)
    return pixels, labels


def _cifar_binary(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with readable(path, "a batch of CIFAR-10, binary version"), _opened(path) as file:
        content = _read(path, file, 1 << 30)
    if not content or len(content) % _RECORD:
        raise DataError(
            path, f"{len(content)} bytes", f"a multiple of {_RECORD}: a label and 3072 pixels each"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


def _cifar_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    expected = "a batch of CIFAR-10, Python version"
    with readable(path, expected), _opened(path) as file:
        try:
            batch = _Unpickler(file).load()
        except _GARBLED as error:
            told = str(error) or type(error).__name__
            raise DataError(path, f"a pickle that is refused: {told}", expected) from error
    found = batch if isinstance(batch, dict) else {}
    array, labels = found.get(b"data"), found.get(b"labels")
    pixels = array.values if isinstance(array, _Array) else None
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != 3072:
        shape = "no array" if pixels is None else f"an array of shape {pixels.shape}"
        raise DataError(path, f"{shape} as 'data'", "one of bytes, (images, 3072)")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(path, "no list of integers as 'labels'", "one, with a label an image")
    if any(abs(label) > 1 << 31 for label in labels):
        raise DataError(path, "labels beyond 32 bits", f"labels in 0..{CLASSES - 1}")
    return pixels, np.array(labels, np.int64)


class _Array:
    """What stands in for a pickled NumPy array: it takes bytes and a shape, and nothing else."""

    def __init__(self) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, content = state
        if not isinstance(kind, _Kind) or fortran or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array of other things than bytes")
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


class _Kind:
    """What stands in for the dtype of bytes."""

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: bytes have none."""


class _Unpickler(pickle.Unpickler):
    """Builds dictionaries, lists, strings, numbers and arrays of bytes; calls nothing of others."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="bytes")
        self._known = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._known[module, name]


def _stand_ins() -> dict[tuple[str, str], Callable[..., Any]]:
    """What the pickle of an array names, and what it gets: made anew for each file."""

    def array(*arguments: Any) -> _Array:
        return _Array()

    def dtype(kind: Any = None, *arguments: Any) -> _Kind:
        if kind not in (b"u1", "u1", b"|u1", "|u1"):
            raise pickle.UnpicklingError(f"an array of dtype {kind!r}, not of bytes")
        return _Kind()

    def unused(*arguments: Any) -> None:
        raise pickle.UnpicklingError("it calls numpy.ndarray")

    makers = {(f"numpy.{core}.multiarray", "_reconstruct"): array for core in ("core", "_core")}
    return {**makers, ("numpy", "dtype"): dtype, ("numpy", "ndarray"): unused}
