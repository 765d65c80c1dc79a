"""Text corpora on disk: which files make up each split, and a stream of their text."""

import codecs
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError, readable

BLOCK = 1 << 20  # bytes read at a time
_TITLE = re.compile(r"^ ?= (?!= )[^\n]*(?<! =) = *$", re.MULTILINE)
_SPLITS = {  # the names of each split's files
    Stream.TRAIN: ("train",),
    Stream.VALIDATION: ("valid", "validation", "val"),
    Stream.TEST: ("test",),
}
_LAYOUTS = (
    "wiki.{train,valid,test}.tokens; or train*, valid* and test*.parquet with a column 'text'; or "
    "{train,valid,test}.txt, folders of .txt of these names, or at least ten .txt files"
)


class Piece(NamedTuple):
    """Whole lines of text (or of one long line a part); whether an article starts with them."""

    text: str
    starts: bool


class Source(NamedTuple):
    """The files of a corpus. ``kind`` says how to read them, and how words are told apart."""

    kind: Literal["tokens", "parquet", "text"]
    files: Mapping[Stream, list[Path]]

    def pieces(self, stream: Stream) -> Iterator[Piece]:
        """One split's text, a block at a time.

        In ``.tokens`` and parquet files an article starts at a line ``= Title =``; of ``.txt``
        files each is an article. The rows of a parquet file are lines.
        """
        for path in self.files[stream]:
            if self.kind == "text":
                for number, text in enumerate(_blocks(path)):
                    yield Piece(text, starts=number == 0)
            else:
                texts = _blocks(path) if self.kind == "tokens" else _rows(path)
                yield from _articles(texts)


def find(path: Path) -> Source:
    """The files of the corpus at ``path``, a folder.

    Raises
    ------
    DataError
        No such folder, no files of a known layout, or a split that is missing.
    """
    with readable(path, f"a folder with {_LAYOUTS}"):
        names = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    layouts: list[tuple[Any, str, dict[Stream, list[Path]]]] = [
        ("tokens", "wiki.{}.tokens", _named(names, r"wiki\.{}\.tokens")),
        ("parquet", "{}*.parquet", _named(names, r"{}([-_.].*)?\.parquet")),
        ("text", "{}.txt", _named(names, r"(.*\.)?{}\.txt")),
        ("text", "{}/*.txt", _folders(names)),
    ]
    for kind, pattern, files in layouts:
        if files:
            _check_complete(path, pattern, files)
            return Source(kind, files)
    return Source("text", _every_tenth(path, sorted(path.rglob("*.txt"))))


def _named(names: Iterable[Path], pattern: str) -> dict[Stream, list[Path]]:
    """The files of each split whose name is ``pattern`` with one of the split's names in it."""
    splits = {
        stream: re.compile(pattern.replace("{}", f"({'|'.join(known)})"))
        for stream, known in _SPLITS.items()
    }
    files = {
        stream: [path for path in names if path.is_file() and form.fullmatch(path.name)]
        for stream, form in splits.items()
    }
    return {stream: found for stream, found in files.items() if found}


def _folders(names: Iterable[Path]) -> dict[Stream, list[Path]]:
    """The .txt files below folders that are named as splits."""
    files = {
        stream: sorted(file for folder in names if folder.is_dir() and folder.name in known
                       for file in folder.rglob("*.txt"))
        for stream, known in _SPLITS.items()
    }  # fmt: skip
    return {stream: found for stream, found in files.items() if found}


def _check_complete(path: Path, pattern: str, files: Mapping[Stream, list[Path]]) -> None:
    for stream, known in _SPLITS.items():
        if stream not in files:
            there = ", ".join(file.name for some in files.values() for file in some[:2])
            missing = " or ".join(pattern.replace("{}", name) for name in known)
            raise DataError(path, f"{there}, but no {stream.name.lower()} split", missing)


def _every_tenth(path: Path, texts: list[Path]) -> dict[Stream, list[Path]]:
    """Of every ten files the first is for test, the seventh for validation."""
    if len(texts) < 10:
        there = f"{len(texts)} .txt files" if texts else "none of them"
        raise DataError(path, there, _LAYOUTS)
    return tenths(texts)


def tenths(articles: list[Any]) -> dict[Stream, list[Any]]:
    """A split of articles: of every ten the first for test, the seventh for validation."""
    held = {0: Stream.TEST, 6: Stream.VALIDATION}
    files: dict[Stream, list[Any]] = {stream: [] for stream in Stream}
    for k, article in enumerate(articles):
        files[held.get(k % 10, Stream.TRAIN)].append(article)
    return files


def _blocks(path: Path) -> Iterator[str]:
    """A UTF-8 file's text in blocks that end with a line's end, the last one too."""
    expected = "UTF-8 text"
    decoder, read, rest, ended = codecs.getincrementaldecoder("utf-8")(), 0, "", True
    with readable(path, expected), open(path, "rb") as file:
        while True:
            data = file.read(BLOCK)
            pending = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                at = read - pending + error.start
                byte = f"byte 0x{error.object[error.start]:02x} at offset {at}"
                raise DataError(path, f"{byte}, which is no UTF-8", expected) from error
            if read == 0:
                text = text.removeprefix("\ufeff")
            read += len(data)
            rest += text
            end = len(rest) if not data else _last_break(rest)
            if end:
                block, rest = rest[:end].replace("\r\n", "\n"), rest[end:]
                yield block
                ended = block.endswith("\n")
            if not data:
                if not ended:
                    yield "\n"
                return


def _last_break(text: str) -> int:
    """Where to cut: after the last line's end; within a line longer than a block, at a space."""
    end = text.rfind("\n") + 1
    if end or len(text) < BLOCK:
        return end
    return text.rfind(" ") + 1 or len(text) - 1


def _articles(texts: Iterable[str]) -> Iterator[Piece]:
    """Text cut where articles start: at the beginning, and before each title."""
    first = True
    for text in texts:
        titles = [match.start() for match in _TITLE.finditer(text)]
        for begin, end in itertools.pairwise(sorted({0, *titles, len(text)})):
            yield Piece(text[begin:end], starts=first or begin in titles)
            first = False


def _rows(path: Path) -> Iterator[str]:
    """The lines of a parquet file's column ``text``, some rows at a time."""
    arrow, parquet = _pyarrow()
    expected = "a parquet file with a column 'text' of strings"
    try:
        with readable(path, expected), parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise DataError(path, f"the columns {', '.join(names)}", "a column 'text'")
            kind = file.schema_arrow.field("text").type
            if not (arrow.types.is_string(kind) or arrow.types.is_large_string(kind)):
                raise DataError(path, f"a column 'text' of type {kind}", "strings in it")
            for batch in file.iter_batches(batch_size=256, columns=["text"]):
                rows = (row or "" for row in batch.column(0).to_pylist())
                yield "".join(row if row.endswith("\n") else f"{row}\n" for row in rows)
    except arrow.ArrowInvalid as error:
        told = str(error).splitlines()[0]
        raise DataError(path, f"no parquet ({told})", expected) from error


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"parquet files need {error.name}, which is not installed: "
            "pip install 'gatecore[language]'",
            name=error.name,
        ) from error
    return pyarrow, pyarrow.parquet
