"""Readers of MNIST's IDX files and CIFAR-10's batches. Nothing in the files is executed."""

import contextlib
import gzip
import hashlib
import io
import itertools
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gatecore.tasks.problems.data_files import DataError, readable
from gatecore.tasks.problems.pixels.gzip_members import MAGIC, GzipMembers
from gatecore.tasks.safe_files import descriptor

CLASSES = 10
_RECORD = 1 + 3 * 1024  # bytes of CIFAR-10's binary version: a label, then red, green, blue planes
_IDX = {2051: (3, 1 << 28), 2049: (1, 1 << 24)}  # magic number: dimensions and most bytes
_LARGEST = (1 << 28) + (1 << 20)  # bytes of a file
_MOST_INFLATED = 1032  # bytes out of one that is compressed
_UNPICKLING_ERRORS = (AttributeError, IndexError, KeyError, OverflowError, RecursionError,
                      TypeError, ValueError)  # fmt: skip
_MOST_OPCODES = 200_000  # of a batch of 20,000 images, with much to spare
_MOST_BYTES = 20_000 * _RECORD + (1 << 20)  # of a batch; CIFAR-10's have 10,000 images
_LITERALS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
             "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES",
             "BINBYTES", "BINBYTES8")  # fmt: skip
_MADE: dict[str, Any] = {"NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
                         "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}  # fmt: skip
_FUNCTIONS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
              "numpy.dtype", "numpy.ndarray")  # fmt: skip
_BYTES = object()  # the dtype of a pickled array
_SUBFOLDERS = ("", "MNIST/raw", "raw", "cifar-10-batches-bin", "cifar-10-batches-py")
_NAMES = {  # of the files in either version, by their format
    "mnist": [[f"{part}-{name}{mark}{kind}-ubyte" for mark in "-."] for part in ("train", "t10k")
              for name, kind in (("images", "idx3"), ("labels", "idx1"))],
    "cifar10": [[f"{name}.bin", name]
                for name in (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")]}  # fmt: skip
_MD5 = [  # of those files, uncompressed; of CIFAR-10 in its Python and in its binary version
    ("MNIST", "6bbc9ace898e44ae57da46a324031adb a25bea736e30d166cdddb491f175f624 "
              "2646ac647ad5339dbf082846283269ea 27ae3e4e09519cfbb04c329615203637"),
    ("Fashion-MNIST", "f4a8712d7a061bf5bd6d2ca38dc4d50a 9018921c3c673c538a1fc5bad174d6f9 "
                      "8181f5470baa50b63fa0f6fddb340f0a 15d484375f8d13e6eb1aabb0c3f46965"),
    ("CIFAR-10", "c99cafc152244af753f735de768cd75f d4bba439e000b95fd0a9bffe97cbabec "
                 "54ebc095f3ab1f0389bbae665268c751 634d18415352ddfa80567beed471001a "
                 "482c414d41f54cd18b22e5b47cb7c3cb 40351d587109b95175f43aff81a1287e"),
    # as published by prabhuomkar/pytorch-cpp and by rai-project/dldataset, which agree
    ("CIFAR-10", "5dd7e06a14cb22eb9f671a540d1b7c25 5ea93a67294ea407fff1d09f752e9692 "
                 "942cd6a4bcdd0dd3c604fbe906cb4421 ae636b3ba5c66a11e91e8cb52e771fcb "
                 "53f37980c15c3d472c316c40844f3f0d 803d5f7f4d78ea53de84dbe85f74fb6d")]  # fmt: skip


def _md5(parts: Iterable[bytes]) -> str:
    whole = hashlib.md5(usedforsecurity=False)
    for part in parts:
        whole.update(part)
    return whole.hexdigest()


KNOWN = {_md5([digests.encode()]): name for name, digests in _MD5}  # by `digest`


def digest(data: str, folder: Path) -> str:
    """The digest of the uncompressed files of ``mnist`` or ``cifar10``; DataError without them."""
    digests = []
    for names in _NAMES[data]:
        with _open(_find(folder, names), f"a file of {data}") as file:
            most = _LARGEST if data == "mnist" else _MOST_BYTES  # the readers refuse larger ones
            chunks = (file.read(1 << 20) for _ in range(0, most, 1 << 20))
            digests.append(_md5(itertools.takewhile(bool, chunks)))
    return _md5([" ".join(digests).encode()])


class Images(NamedTuple):
    """``pixels`` (images, steps, channels), uint8 or float32 in [0, 1], and int ``labels``."""

    pixels: np.ndarray
    labels: np.ndarray


def mnist(folder: Path) -> tuple[Images, Images]:
    """Training and test images (n, 784, 1) of IDX files with MNIST's names, plain or .gz.

    Raises DataError, as all readers of this module, if a file is missing or damaged.
    """
    parts, files = [], [_find(folder, names) for names in _NAMES["mnist"]]
    for images, labels in zip(files[::2], files[1::2], strict=True):
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
    for files in (_NAMES["cifar10"][:5], _NAMES["cifar10"][5:]):
        batches = [_cifar_batch(_find(folder, names)) for names in files]
        pixels, labels = (np.concatenate(arrays) for arrays in zip(*batches, strict=True))
        planes = pixels.reshape(-1, 3, 1024)
        parts.append(Images(np.ascontiguousarray(planes.swapaxes(1, 2)), labels.astype(np.int64)))
    return parts[0], parts[1]


def _find(folder: Path, names: list[str]) -> Path:
    """The first existing file, plain or compressed, in ``folder`` or a usual subfolder."""
    for subfolder, name, suffix in itertools.product(_SUBFOLDERS, names, ("", ".gz")):
        if (path := folder / subfolder / f"{name}{suffix}").is_file():
            return path
    raise DataError(folder, f"no {names[0]}", f"a file {' or '.join(names)}, plain or .gz")


def read_idx(path: Path, magic: int) -> np.ndarray:
    """The uint8 array of an IDX file with this magic number (2051: images, 2049: labels)."""
    dimensions, most = _IDX[magic]
    size = 4 * (1 + dimensions)
    with _open(path, f"an IDX file with magic number {magic}") as file:
        if len(header := file.read(size)) < size:
            raise DataError(path, f"{len(header)} bytes", f"a header of {size}")
        number, *shape = (int.from_bytes(header[k : k + 4]) for k in range(0, size, 4))
        if number != magic:
            raise DataError(path, f"the magic number {number}", str(magic))
        expected, count = math.prod(shape), os.fstat(file.fileno()).st_size - size
        if compressed := isinstance(file.raw, GzipMembers):
            most = min(most, _MOST_INFLATED * (count + size))
        if compressed or count == expected:
            if math.prod(max(length, 1) for length in shape) > most:  # NumPy's sizes have a limit
                raise DataError(path, f"the shape {tuple(shape)}", f"at most {most:,} bytes")
            content, count = np.empty(expected, np.uint8), 0
            while part := file.readinto(content.data[count:]):
                count += part
            count += len(file.read(1))
    if count != expected:
        needed = f"{expected}, for the shape {tuple(shape)}"
        found = "more" if count > expected else str(count)
        raise DataError(path, f"{found} bytes after the header", needed)
    return content.reshape(shape)


@contextlib.contextmanager
def _open(path: Path, expected: str) -> Iterator[io.BufferedReader]:
    """An open file, decompressed; errors of reading it become :class:`DataError`."""
    with readable(path, expected), open(descriptor(path, links=True), "rb") as file:
        if (size := os.fstat(file.fileno()).st_size) > _LARGEST:
            raise DataError(path, f"{size:,} bytes", f"at most {_LARGEST:,}")
        zipped = path.suffix == ".gz" or file.peek(2)[:2] == MAGIC
        try:
            yield io.BufferedReader(GzipMembers(file), 1 << 16) if zipped else file
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            detail = str(error).rstrip(".")
            raise DataError(path, f"damaged gzip data ({detail})", "a complete .gz file") from error


def _read(path: Path, expected: str) -> bytes:
    """The content of a batch of CIFAR-10."""
    with _open(path, expected) as file:
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise DataError(path, "a larger file", f"at most {_MOST_BYTES:,} bytes, as a batch has")
    return content


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
    content = _read(path, "a batch of CIFAR-10, binary version")
    if not content or len(content) % _RECORD:
        raise DataError(path, f"{len(content)} bytes",
                        f"a multiple of {_RECORD}: a label and 3072 pixels each")  # fmt: skip
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


def _cifar_pickled(path: Path) -> tuple[np.ndarray, np.ndarray]:
    content = _read(path, expected := "a batch of CIFAR-10, Python version")
    try:
        batch = _unpickled(content)
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


class _Function(NamedTuple):
    name: str


class _Array:
    """A pickled NumPy array, which may hold bytes alone."""

    values: np.ndarray | None = None

    def build(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        if dtype is not _BYTES or fortran or not isinstance(content, bytes):
            raise ValueError("an array of other things than bytes")
        self.values = np.frombuffer(content, np.uint8).reshape(shape)


def _called(name: str, arguments: tuple[Any, ...]) -> Any:
    """The array or dtype that a pickle makes by calling a function of NumPy."""
    if name == "numpy.ndarray":
        raise ValueError("it calls numpy.ndarray")
    if name != "numpy.dtype":
        return _Array()
    if arguments[0] not in (b"u1", "u1", b"|u1", "|u1"):
        kind = arguments[0]  # only text is printed: a small graph may have 2^60 parts
        shown = repr(kind[:20]) if isinstance(kind, str | bytes) else type(kind).__name__
        raise ValueError(f"an array of dtype {shown}, not of bytes")
    return _BYTES


def _unpickled(content: bytes) -> Any:
    """The dictionary, list, tuple, text, number or array of bytes that a pickle describes."""
    # read opcode by opcode: nothing else is built, and nothing called, imported or hashed but text
    import pickletools

    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def popped(start: int) -> list[Any]:
        values = stack[start:]
        del stack[start:]
        return values

    for number, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        if number > _MOST_OPCODES:
            raise ValueError(f"it has more than {_MOST_OPCODES:,} opcodes")
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case name if name in _MADE:
                stack.append(_MADE[name]())
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING":  # of Python 2
                stack.append(str(argument).encode("latin-1"))
            case name if name in _LITERALS:
                stack.append(argument)
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = opcode.name[5:]
                stack.append(tuple(popped(len(stack) - int(count) if count else marks.pop())))
            case "LIST":
                stack.append(popped(marks.pop()))
            case "APPEND" | "APPENDS":
                values = popped(len(stack) - 1 if opcode.name == "APPEND" else marks.pop())
                list.extend(stack[-1], values)
            case "DICT" | "SETITEM" | "SETITEMS":
                values = popped(len(stack) - 2 if opcode.name == "SETITEM" else marks.pop())
                if opcode.name == "DICT":
                    stack.append({})
                if not all(isinstance(key, bytes | str) for key in values[::2]):
                    raise ValueError("a dictionary with other keys than text")
                dict.update(stack[-1], zip(values[::2], values[1::2], strict=True))
            case "PUT" | "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL" | "INST" | "STACK_GLOBAL":
                names = popped(len(stack) - 2) if argument is None else argument.split(" ")
                if (name := ".".join(names)) not in _FUNCTIONS or opcode.name == "INST":
                    raise ValueError(f"it asks for {name}")
                stack.append(_Function(name))
            case "REDUCE":
                function, arguments = popped(len(stack) - 2)
                if not isinstance(function, _Function):
                    raise ValueError("it calls a value")
                stack.append(_called(function.name, arguments))
            case "BUILD":
                state = stack.pop()
                if stack[-1] is not _BYTES:  # which ignores its byte order and the like
                    stack[-1].build(state)
            case name:
                raise ValueError(f"it has the opcode {name}")
    return stack[-1]
