"""Text as token ids: a vocabulary, and each split's ids in memory-mapped files on disk."""

import contextlib
import dataclasses
import hashlib
import io
import json
import mmap
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError, readable
from gatecore.tasks.problems.language.text_files import BLOCK, Piece, Source
from gatecore.tasks.safe_files import descriptor, parse_json, read_bytes, remove

T = TypeVar("T")
UNKNOWN, END = "<unk>", "<eos>"  # the symbols 0 and 1
FORMAT = 2  # of the files below; part of their key
_WORD = re.compile(r"\w+|\n|-+|=+|\*+|#+|~+|\^+|\.+|[^\w\s]")
_IDS = np.dtype("<u4")
_NAMES = {stream: stream.name.lower() for stream in Stream}  # of the splits' files


class Tokens:
    """The ids of a split, uint32 (tokens,), and its articles' starts, ascending int64 from 0."""

    def __init__(self, ids: np.ndarray, starts: np.ndarray) -> None:
        self.ids, self.starts, self._read = ids, starts, 0

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The ids at positions ``places``, as int64. Position -1 wraps to the last id."""
        ids = self.ids[places].astype(np.int64)
        self._read += ids.size
        if self._read > 1 << 22:
            self._release()
        return ids

    def blocks(self, size: int = 1 << 20) -> Iterator[np.ndarray]:
        """All ids in order, ``size`` at a time, each block preceded by the id before (or <eos>)."""
        before = np.array([1], _IDS)
        for start in range(0, len(self), size):
            block = np.concatenate([before, self.ids[start : start + size]])
            self._release()
            before = block[-1:]
            yield block

    def _release(self) -> None:
        """Return the pages read to the system; they would count as this process's memory."""
        self._read = 0
        mapped = getattr(self.ids, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


@dataclasses.dataclass(frozen=True, eq=False)
class Corpus:
    """Tokens of the three splits over one vocabulary."""

    content: str  # identifies the text
    symbols: list[str]  # <unk>, <eos>, then the others by falling frequency in training
    splits: Mapping[Stream, Tokens]
    folder: Path | None = None  # of the encoded files


class _Words(dict[str, int]):
    """Numbers of words, which spaces separate or else are runs of letters and digits or a mark."""

    def __init__(self, separated: bool) -> None:
        super().__init__({UNKNOWN: 0, END: 1})
        self._separated, self._names = separated, [UNKNOWN, END]
        if not separated:
            self["\n"] = 1

    def __missing__(self, word: str) -> int:
        self[word] = number = self.count
        self._names.append(word)
        return number

    @property
    def count(self) -> int:
        return len(self._names)

    def encode(self, text: str) -> np.ndarray:
        words = text.replace("\n", f" {END} ").split() if self._separated else _WORD.findall(text)
        return np.fromiter(map(self.__getitem__, words), _IDS, len(words))

    def name(self, number: int) -> str:
        return self._names[number]


class _Characters:
    """Characters, numbered by code point; the end of a line is ``<eos>``, as among words."""

    count = 0x110000 + 2

    def encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le"), _IDS) + _IDS.type(2)
        codes[codes == ord("\n") + 2] = 1
        return codes

    def name(self, number: int) -> str:
        return (UNKNOWN, END)[number] if number < 2 else chr(number - 2)


Numbering = _Words | _Characters  # numbers of a text's symbols, in ``range(count)``


def numbering(level: str, kind: str) -> Numbering:
    """The numbering of symbols for a level ("word", "character") and a kind of source."""
    return _Characters() if level == "character" else _Words(separated=kind != "text")


def encoded(splits: Mapping[Stream, Iterable[Piece]], files: Mapping[Stream, Any],
            numbers: Numbering, min_count: int,
            limit: int | None) -> tuple[list[str], dict[Stream, np.ndarray]]:  # fmt: skip
    """Write each split's ids into its open file; return the vocabulary and the article starts."""
    # the text is read once; symbols are renumbered at the end by their frequency in training
    starts = {stream: _write_numbers(splits[stream], files[stream], numbers) for stream in Stream}
    counts = np.zeros(numbers.count, np.int64)
    for _, block in _blocks(files[Stream.TRAIN]):
        counts += np.bincount(block, minlength=len(counts))
    symbols, chosen = _vocabulary(counts, numbers, min_count, limit)
    ids = np.zeros(len(counts), _IDS)
    ids[[1, *chosen]] = np.arange(1, 2 + len(chosen))
    for file in files.values():
        for offset, block in _blocks(file):
            file.seek(offset)
            file.write(ids[block].data)
        file.flush()
    return symbols, starts


def _write_numbers(pieces: Iterable[Piece], file: Any, numbers: Numbering) -> np.ndarray:
    """Write the symbols' numbers; return where articles start."""
    starts, total = [], 0
    for piece in pieces:
        if piece.starts:
            starts.append(total)
        block = numbers.encode(piece.text)
        file.write(block.data)
        total += len(block)
    return np.unique(np.array(starts, np.int64))


def _vocabulary(counts: np.ndarray, numbers: Numbering, min_count: int,
                limit: int | None) -> tuple[list[str], list[int]]:  # fmt: skip
    """The symbols, and the numbers of those other than ``<unk>`` and ``<eos>``."""
    chosen = (2 + np.flatnonzero(counts[2:] >= max(min_count, 1))).tolist()
    chosen.sort(key=lambda number: (-counts[number], numbers.name(number)))
    chosen = chosen if limit is None else chosen[: limit - 2]
    return [UNKNOWN, END, *map(numbers.name, chosen)], chosen


def _blocks(file: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Offsets and contents of an open file of ids, a block at a time."""
    file.seek(0)
    while data := file.read(4 * BLOCK):
        yield file.tell() - len(data), np.frombuffer(data, _IDS)


def load(path: Path, source: Source, level: str, min_count: int, limit: int | None) -> Corpus:
    """The corpus of the files at ``path``, read from its cache or encoded now.

    The cache is ``path/.gatecore``, or where that is not writable a folder in the user's cache. It
    is keyed by the text's content and the vocabulary's settings, and appears in one step, complete.
    Several processes may load a corpus at once: one encodes it, the others wait. Symbols with fewer
    than ``min_count`` occurrences in training, or beyond the ``limit``, become ``<unk>``. Raises
    DataError if a file cannot be read, a split has no text, or the cache cannot be written.
    """
    content = fingerprint(path, source)
    key = _digest([FORMAT, content, level, min_count, limit])[:16]
    folders = [path / ".gatecore" / key]
    with contextlib.suppress(RuntimeError):  # there is no home folder
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folders.append(cache / "gatecore" / "corpora" / key)
    for folder in folders:
        if (corpus := _read(folder, content)) is not None:
            return corpus
    folder = folders[0] if _writable(folders[0].parent) else folders[-1]
    with readable(folder, "a folder in which the encoded corpus can be stored"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if _read(folder, content) is None:
                _make(folder, source, numbering(level, source.kind), min_count, limit, content)
    if (corpus := _read(folder, content)) is None:
        raise DataError(folder, "damaged files", "what was just written there")
    return corpus


def fingerprint(path: Path, source: Source) -> str:
    """A digest of the names and contents of a corpus's files."""
    parts = []
    for stream, files in source.files.items():
        for file in files:
            name = file.relative_to(path).as_posix()
            with readable(file, "a file of the corpus"):
                parts.append([int(stream), name, _file_digest(file)])
    return _digest([source.kind, parts])[:16]


def _file_digest(path: Path) -> str:
    with open(descriptor(path, links=True), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _writable(folder: Path) -> bool:
    return os.access(folder if folder.exists() else folder.parent, os.W_OK | os.X_OK)


def _read(folder: Path, content: str) -> Corpus | None:
    """The corpus of a folder; None if it is absent, or its files have not the recorded digests."""
    if folder.is_symlink() or (folder.parent.name == ".gatecore" and folder.parent.is_symlink()):
        raise DataError(folder, "a symbolic link", "a folder; remove the link")
    try:
        description = parse_json(read_bytes(folder / "corpus.json"))
        digests = description["sha256"]
        (symbols,) = _verified(folder, "vocabulary.json", digests, lambda f: [parse_json(f.read())])
        splits = {}
        for stream, name in _NAMES.items():
            ids = _verified(folder, f"{name}.ids", digests, lambda f: np.memmap(f, _IDS, "r"))
            starts = _verified(folder, f"{name}.starts", digests,
                               lambda f: np.frombuffer(f.read(), np.int64))  # fmt: skip
            if starts[0] or starts[-1] > len(ids) or np.any(np.diff(starts) <= 0):
                return None
            splits[stream] = Tokens(ids, starts)
        highest = max(int(ids.max()) for part in splits.values() for ids in part.blocks())
        if description["content"] != content or highest >= len(symbols):
            return None
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Corpus(content, symbols, splits, folder)


def _verified(folder: Path, name: str, digests: Mapping[str, str], read: Callable[[Any], T]) -> T:
    """Read a file of a cache. Raises ValueError if it is not the one that was written."""
    with open(descriptor(folder / name), "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != digests[name]:
            raise ValueError(f"{name} is damaged")
        file.seek(0)
        return read(file)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Admit one process at a time, where the system has locks; remove what killed ones left."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(descriptor(folder.with_suffix(".lock"), os.O_WRONLY | os.O_CREAT), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for remainder in folder.parent.glob(f".{folder.name}.*"):
            remove(remainder)
        yield


def _make(folder: Path, source: Source, numbers: Numbering, min_count: int, limit: int | None,
          content: str) -> None:  # fmt: skip
    """Encode a corpus into a temporary folder, then rename that."""
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    temporary.mkdir()
    try:
        with contextlib.ExitStack() as stack:
            files = {stream: stack.enter_context(open(temporary / f"{name}.ids", "w+b"))
                     for stream, name in _NAMES.items()}  # fmt: skip
            splits = {stream: source.pieces(stream) for stream in Stream}
            symbols, starts = encoded(splits, files, numbers, min_count, limit)
            tokens = {stream: file.seek(0, os.SEEK_END) // 4 for stream, file in files.items()}
            for file in files.values():
                os.fsync(file.fileno())
        for stream, count in tokens.items():
            if count < 2 or len(symbols) < 3:
                names = ", ".join(map(str, source.files[stream][:3]))
                raise DataError(names, "no text", f"the {_NAMES[stream]} split's text")
        for stream, places in starts.items():
            (temporary / f"{_NAMES[stream]}.starts").write_bytes(places.tobytes())
        (temporary / "vocabulary.json").write_text(json.dumps(symbols), encoding="utf-8")
        digests = {file.name: _file_digest(file) for file in temporary.iterdir()}
        description = {"format": FORMAT, "content": content, "sha256": digests}
        (temporary / "corpus.json").write_text(json.dumps(description), encoding="utf-8")
        remove(folder)  # a damaged one, which `_read` refused
        with contextlib.suppress(OSError):  # where there are no locks another may have been first
            temporary.rename(folder)
    finally:
        remove(temporary)


def in_memory(articles: Mapping[Stream, list[str]], level: str, min_count: int, limit: int | None,
              content: str) -> Corpus:  # fmt: skip
    """The corpus of articles that are strings in memory; parameters as for :func:`load`."""
    files = {stream: io.BytesIO() for stream in Stream}
    pieces = {stream: (Piece(text, True) for text in texts) for stream, texts in articles.items()}
    symbols, starts = encoded(pieces, files, numbering(level, "text"), min_count, limit)
    ids = {stream: np.frombuffer(file.getvalue(), _IDS) for stream, file in files.items()}
    return Corpus(content, symbols, {stream: Tokens(ids[stream], starts[stream]) for stream in ids})
