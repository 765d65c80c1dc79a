"""Text as numbers: a vocabulary, and every split's tokens as memory-mapped ids kept on disk."""

import contextlib
import hashlib
import io
import json
import mmap
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError, readable
from gatecore.tasks.problems.language.corpus import BLOCK, Piece, Source

UNKNOWN, END = "<unk>", "<eos>"  # the symbols 0 and 1
FORMAT = 1  # of the files below; part of their key
_WORD = re.compile(r"\w+|\n|-+|=+|\*+|#+|~+|\^+|\.+|[^\w\s]")
_IDS = np.dtype("<u4")


class Tokens:
    """A split's ids (uint32), and where its articles start. Reading leaves little in memory.

    Parameters
    ----------
    ids : array (tokens,), perhaps memory-mapped
    starts : int64 array (articles,), ascending; the first is 0
    """

    def __init__(self, ids: np.ndarray, starts: np.ndarray) -> None:
        self.ids, self.starts, self._read = ids, starts, 0

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, places: np.ndarray) -> np.ndarray:
        """The ids at some places, as int64. Place -1 is before the text, and gives the last."""
        found = self.ids[places].astype(np.int64)
        self._read += found.size
        if self._read > 1 << 22 and isinstance(self.ids, np.memmap):
            self._release()
        return found

    def blocks(self, size: int = 1 << 20) -> Iterator[np.ndarray]:
        """All ids in order, ``size`` at a time, each block with the last id of the one before.

        Before the first comes ``<eos>``: what precedes a text is the end of a line.
        """
        before = np.array([1], _IDS)
        for start in range(0, len(self), size):
            block = np.concatenate([before, self.ids[start : start + size]])
            if isinstance(self.ids, np.memmap):
                self._release()
            before = block[-1:]
            yield block

    def _release(self) -> None:
        """Let the system take back the pages that were read: they would count as this process's."""
        self._read = 0
        mapped = getattr(self.ids, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


class Corpus:
    """Tokens of the three splits over one vocabulary.

    Parameters
    ----------
    content : str
        What identifies the text.
    symbols : list of str
        ``<unk>``, ``<eos>``, then by falling frequency in the training split.
    splits : mapping of Stream to Tokens
    folder : Path, optional
        Where it is kept.
    """

    def __init__(
        self,
        content: str,
        symbols: list[str],
        splits: Mapping[Stream, Tokens],
        folder: Path | None = None,
    ) -> None:
        self.content, self.symbols, self.splits, self.folder = content, symbols, splits, folder


class Numbering(Protocol):
    """Gives each symbol of a text a number, at first sight."""

    def encode(self, text: str) -> np.ndarray:
        """The numbers of a text's symbols."""

    def name(self, number: int) -> str:
        """The symbol of a number."""


class _Words(dict[str, int]):
    """Words in the order in which they are first seen.

    ``apart``: told apart by spaces alone, as in corpora of tokens; else runs of letters and digits,
    and single marks (or rulers of one mark).
    """

    def __init__(self, apart: bool) -> None:
        super().__init__({UNKNOWN: 0, END: 1})
        self._apart, self._names = apart, [UNKNOWN, END]
        if not apart:
            self["\n"] = 1

    def __missing__(self, word: str) -> int:
        self[word] = number = len(self._names)
        self._names.append(word)
        return number

    def encode(self, text: str) -> np.ndarray:
        words = text.replace("\n", f" {END} ").split() if self._apart else _WORD.findall(text)
        return np.fromiter(map(self.__getitem__, words), _IDS, len(words))

    def name(self, number: int) -> str:
        return self._names[number]


class _Characters:
    """Characters by their code points; the end of a line is ``<eos>``, as among words."""

    def encode(self, text: str) -> np.ndarray:
        codes = np.frombuffer(text.encode("utf-32-le"), _IDS) + _IDS.type(2)
        codes[codes == ord("\n") + 2] = 1
        return codes

    def name(self, number: int) -> str:
        return (UNKNOWN, END)[number] if number < 2 else chr(number - 2)


def numbering(level: str, kind: str) -> Numbering:
    """How a corpus of this kind is told into symbols."""
    return _Characters() if level == "character" else _Words(apart=kind != "text")


def encoded(
    splits: Mapping[Stream, Iterable[Piece]],
    files: Mapping[Stream, Any],
    numbers: Numbering,
    min_count: int,
    limit: int | None,
) -> tuple[list[str], dict[Stream, np.ndarray]]:
    """Write each split's ids into its open file; the vocabulary, and where the articles start.

    The text is read once: symbols are numbered as they come, and renumbered at the end by their
    frequency in the training split.
    """
    counts, starts = np.zeros(2, np.int64), {}
    for stream in Stream:
        here, starts[stream] = _numbered(splits[stream], files[stream], numbers)
        if stream is Stream.TRAIN:
            counts = here
    symbols, kept = _vocabulary(counts, numbers, min_count, limit)
    table = np.zeros(max(_largest(files.values()) + 1, 2), _IDS)
    table[1] = 1
    table[kept] = np.arange(2, 2 + len(kept), dtype=_IDS)
    for file in files.values():
        _renumber(file, table)
    return symbols, starts


def _numbered(
    pieces: Iterable[Piece], file: Any, numbers: Numbering
) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the symbols, and where articles start."""
    counts, starts, total, waiting = np.zeros(2, np.int64), [], 0, 0
    uncounted: list[np.ndarray] = []
    for piece in pieces:
        if piece.starts:
            starts.append(total)
        uncounted.append(numbers.encode(piece.text))
        file.write(uncounted[-1].data)
        total += len(uncounted[-1])
        waiting += len(uncounted[-1])
        if waiting > BLOCK:  # a count takes time in proportion to the vocabulary
            counts, uncounted, waiting = _counted(counts, uncounted), [], 0
    return _counted(counts, uncounted), np.unique(np.array(starts, np.int64))


def _counted(counts: np.ndarray, ids: list[np.ndarray]) -> np.ndarray:
    """``counts`` with those of more ids."""
    found = np.bincount(np.concatenate([*ids, np.zeros(0, _IDS)]), minlength=len(counts))
    found[: len(counts)] += counts
    return found


def _vocabulary(
    counts: np.ndarray, numbers: Numbering, min_count: int, limit: int | None
) -> tuple[list[str], list[int]]:
    """Symbols, and the numbers of those that are neither ``<unk>`` nor ``<eos>``."""
    chosen = np.flatnonzero(counts >= min_count)
    chosen = chosen[(chosen >= 2) & (counts[chosen] > 0)].tolist()
    chosen.sort(key=lambda number: (-counts[number], numbers.name(number)))
    kept = chosen if limit is None else chosen[: limit - 2]
    return [UNKNOWN, END, *map(numbers.name, kept)], kept


def _blocks_of(file: Any) -> Iterator[tuple[int, np.ndarray]]:
    """Offsets and ids of an open file, some at a time."""
    file.seek(0)
    while data := file.read(4 * BLOCK):
        yield file.tell() - len(data), np.frombuffer(data, _IDS)


def _largest(files: Iterable[Any]) -> int:
    return max((int(ids.max()) for file in files for _, ids in _blocks_of(file)), default=0)


def _renumber(file: Any, table: np.ndarray) -> None:
    for offset, ids in _blocks_of(file):
        file.seek(offset)
        file.write(table[ids].data)
    file.flush()


# --- on disk ------------------------------------------------------------------------------------


def load(path: Path, source: Source, level: str, min_count: int, limit: int | None) -> Corpus:
    """The corpus of the files at ``path``: kept beside them, or made and kept now.

    It is kept below ``path/.gatecore``, or where that cannot be written below the user's cache
    folder, in a folder named by the text's content and the vocabulary's settings. That folder
    appears in one step, complete, so processes may do this at once; one of them makes it, and the
    others wait.
    """
    content = fingerprint(path, source)
    key = _digest([FORMAT, content, level, min_count, limit])[:16]
    places = [path / ".gatecore" / key, _user_cache() / key]
    for folder in places:
        if (corpus := _kept(folder, content)) is not None:
            return corpus
    folder = places[0] if _writable(places[0].parent) else places[1]
    expected = "a folder in which the encoded corpus can be kept"
    with readable(folder, expected):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            if _kept(folder, content) is None:
                _make(folder, source, numbering(level, source.kind), min_count, limit)
    corpus = _kept(folder, content)
    if corpus is None:
        raise DataError(folder, "damaged files", "what was just written there")
    return corpus


def fingerprint(path: Path, source: Source) -> str:
    """A digest of the names and contents of a corpus's files."""
    parts = []
    for stream, files in source.files.items():
        for file in files:
            with readable(file, "a file of the corpus"), open(file, "rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            parts.append([int(stream), file.relative_to(path).as_posix(), digest])
    return _digest([source.kind, parts])[:16]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "gatecore" / "corpora"


def _writable(folder: Path) -> bool:
    there = folder if folder.exists() else folder.parent
    return os.access(there, os.W_OK | os.X_OK)


def _kept(folder: Path, content: str) -> Corpus | None:
    """The corpus of a folder; None if there is none, or not all of it."""
    try:
        described = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        symbols = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        splits = {
            stream: Tokens(
                np.memmap(folder / f"{stream.name.lower()}.ids", _IDS, "r"),
                np.load(folder / f"{stream.name.lower()}.starts.npy"),
            )
            for stream in Stream
        }
    except (OSError, ValueError):
        return None
    if described.get("tokens") != {s.name.lower(): len(part) for s, part in splits.items()}:
        return None
    return Corpus(content, symbols, splits, folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time, where the system has locks; what a killed one left is removed."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder.with_suffix(".lock"), "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(left, ignore_errors=True)
        yield


def _make(
    folder: Path, source: Source, numbers: Numbering, min_count: int, limit: int | None
) -> None:
    """Encode a corpus into a temporary folder, and give it its name."""
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        with contextlib.ExitStack() as stack:
            files = {
                stream: stack.enter_context(open(temporary / f"{stream.name.lower()}.ids", "w+b"))
                for stream in Stream
            }
            splits = {stream: source.pieces(stream) for stream in Stream}
            symbols, starts = encoded(splits, files, numbers, min_count, limit)
            tokens = {stream: file.seek(0, os.SEEK_END) // 4 for stream, file in files.items()}
            for file in files.values():
                os.fsync(file.fileno())
        check_text(source, starts, tokens, len(symbols))
        for stream, places in starts.items():
            np.save(temporary / f"{stream.name.lower()}.starts.npy", places)
        described = {"format": FORMAT, "tokens": {s.name.lower(): n for s, n in tokens.items()}}
        (temporary / "vocabulary.json").write_text(json.dumps(symbols), encoding="utf-8")
        (temporary / "corpus.json").write_text(json.dumps(described), encoding="utf-8")
        temporary.chmod(0o777 & ~_umask())
        if folder.exists():  # damaged: it was not taken for a corpus
            shutil.rmtree(folder)
        with contextlib.suppress(OSError):  # where there are no locks another may have been first
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def check_text(
    source: Source, starts: Mapping[Stream, Any], tokens: Mapping[Stream, int], symbols: int
) -> None:
    """Whether every split has any text."""
    for stream, count in tokens.items():
        if count < 2 or symbols < 3:
            named = ", ".join(map(str, source.files[stream][:3]))
            raise DataError(named, "no text", f"the {stream.name.lower()} split's text")


def in_memory(articles: Mapping[Stream, list[str]], level: str, min_count: int,
              limit: int | None, content: str) -> Corpus:  # fmt: skip
    """The corpus of articles that are texts in memory."""
    files = {stream: io.BytesIO() for stream in Stream}
    pieces = {stream: (Piece(text, True) for text in texts) for stream, texts in articles.items()}
    symbols, starts = encoded(pieces, files, numbering(level, "text"), min_count, limit)
    splits = {
        stream: Tokens(np.frombuffer(files[stream].getvalue(), _IDS), starts[stream])
        for stream in Stream
    }
    return Corpus(content, symbols, splits)
