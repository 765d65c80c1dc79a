"""Text corpora on disk: the files of each split, and a stream of their text."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gatecore.tasks import missing
from gatecore.tasks.problems.base import Stream
from gatecore.tasks.problems.data_files import DataError, readable
from gatecore.tasks.safe_files import descriptor

BLOCK = 1 << 20  # characters read at a time
MOST_INFLATED = 100  # bytes of text from a byte of a parquet file
_TITLE = re.compile(r"^ ?= (?!= )[^\n]*(?<! =) = *$", re.MULTILINE)
_SPLITS = {Stream.TRAIN: ("train",), Stream.VALIDATION: ("valid", "validation", "val"),
           Stream.TEST: ("test",)}  # the names of each split's files  # fmt: skip
# pattern of file names, {} being the split: kind of source, regular expression
_LAYOUTS: dict[str, tuple[Any, str]] = {"wiki.{}.tokens": ("tokens", r"wiki\.{}\.tokens"),
                                        "{}*.parquet": ("parquet", r"{}([-_.][^/]*)?\.parquet"),
                                        "{}.txt": ("text", r"([^/]*\.)?{}\.txt"),
                                        "{}/*.txt": ("text", r"{}/.*\.txt")}  # fmt: skip
_EXPECTED = (
    "wiki.{train,valid,test}.tokens; or train*, valid* and test*.parquet with a column 'text'; or "
    "{train,valid,test}.txt, folders of .txt of these names, or at least ten .txt files"
)


class Piece(NamedTuple):
    """Whole lines of text, or a part of a very long line."""

    text: str
    starts: bool  # whether an article starts here


class Source(NamedTuple):
    """The files of a corpus; their kind also decides how words are separated."""

    kind: Literal["tokens", "parquet", "text"]
    files: Mapping[Stream, list[Path]]

    def pieces(self, stream: Stream) -> Iterator[Piece]:
        """The text of one split, a block at a time."""
        # an article is a .txt file, or starts at a line = Title =; rows of a parquet file are lines
        for path in self.files[stream]:
            texts = _rows(path) if self.kind == "parquet" else _blocks(path)
            if self.kind == "text":
                yield from (Piece(text, starts=number == 0) for number, text in enumerate(texts))
            else:
                yield from _articles(texts)


def find(path: Path) -> Source:
    """The files of the corpus in a folder; DataError if it has no known layout or lacks a split."""
    with readable(path, f"a folder with {_EXPECTED}"):
        entries = sorted(p for p in path.iterdir() if not p.name.startswith("."))
    for layout, (kind, pattern) in _LAYOUTS.items():
        if "/" in layout:  # the last one
            with readable(path, f"folders with {_EXPECTED}"):
                entries = _texts(path)
        if files := _match(path, entries, pattern):
            for stream in (stream for stream in Stream if stream not in files):
                present = ", ".join(file.name for some in files.values() for file in some[:2])
                expected = " or ".join(layout.replace("{}", name) for name in _SPLITS[stream])
                raise DataError(path, f"{present}, but no {stream.name.lower()} split", expected)
            return Source(kind, files)
    if (count := len(entries)) < 10:
        raise DataError(path, f"{count} .txt files" if count else "none of them", _EXPECTED)
    return Source("text", tenths(entries))


def _texts(path: Path) -> list[Path]:
    """The .txt files in all folders below, at most 64 deep; linked folders are not entered."""
    texts = []
    for folder, _, names in os.walk(path, onerror=_raise):
        if len(Path(folder).relative_to(path).parts) > 64:
            raise DataError(path, "folders nested more than 64 deep", _EXPECTED)
        texts += [Path(folder, name) for name in names if name.endswith(".txt")]
    return sorted(texts)


def _raise(error: OSError) -> None:
    raise error


def _match(path: Path, candidates: list[Path], pattern: str) -> dict[Stream, list[Path]]:
    """The files of each split whose path below ``path`` has the pattern with the split's name."""
    splits = {}
    for stream, names in _SPLITS.items():
        form = re.compile(pattern.replace("{}", f"({'|'.join(names)})"))
        files = [f for f in candidates if form.fullmatch(f.relative_to(path).as_posix())]
        splits[stream] = [file for file in files if file.is_file()]
    return {stream: files for stream, files in splits.items() if files}


def tenths(articles: list[Any]) -> dict[Stream, list[Any]]:
    """A split of articles: of every ten, the first for test, the seventh for validation."""
    held_out = {0: Stream.TEST, 6: Stream.VALIDATION}
    splits: dict[Stream, list[Any]] = {stream: [] for stream in Stream}
    for k, article in enumerate(articles):
        splits[held_out.get(k % 10, Stream.TRAIN)].append(article)
    return splits


def _blocks(path: Path) -> Iterator[str]:
    """A UTF-8 file's text in blocks that end with a line's end, the last one too."""
    rest, last = "", "\n"
    with (
        readable(path, "UTF-8 text"),
        open(descriptor(path, links=True), encoding="utf-8-sig", newline="") as file,
    ):
        try:
            while text := file.read(BLOCK):
                rest += text
                end = rest.rfind("\n") + 1
                if not end and len(rest) >= BLOCK:  # a line longer than a block: cut at a space
                    end = rest.rfind(" ") + 1 or len(rest) - 1
                if end:
                    yield rest[:end].replace("\r\n", "\n")
                    rest, last = rest[end:], rest[end - 1]
        except UnicodeDecodeError as error:
            read: Any = file.buffer
            offset = read.tell() - len(error.object) + error.start
            byte = f"byte 0x{error.object[error.start]:02x} at offset {offset}"
            raise DataError(path, f"{byte}, which is not UTF-8", "UTF-8 text") from error
    if not (rest or last).endswith("\n"):
        yield rest + "\n"


def _articles(texts: Iterable[str]) -> Iterator[Piece]:
    """Text cut where articles start: at the beginning, and before each title."""
    first = True
    for text in texts:
        titles = [match.start() for match in _TITLE.finditer(text)]
        for begin, end in itertools.pairwise(sorted({0, *titles, len(text)})):
            yield Piece(text[begin:end], starts=first or begin in titles)
            first = False


def _check_inflated(path: Path, size: int) -> None:
    """Raise DataError if a parquet file holds too much text for its own size."""
    if size > (most := MOST_INFLATED * path.stat().st_size):
        raise DataError(path, f"{size:,} bytes of text or more", f"at most {most:,}, "
                        f"{MOST_INFLATED} for each byte of the file")  # fmt: skip


def _rows(path: Path) -> Iterator[str]:
    """The lines of a parquet file's column ``text``, some rows at a time."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise missing(error, "language") from error
    expected = "a parquet file with a column 'text' of strings"
    try:
        with readable(path, expected), pyarrow.parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if "text" not in names:
                raise DataError(path, f"the columns {', '.join(names)}", "a column 'text'")
            kind = file.schema_arrow.field("text").type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise DataError(path, f"a column 'text' of type {kind}", "strings in it")
            groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
            parts = [group.column(k) for group in groups for k in range(group.num_columns)]
            stated = [p.total_uncompressed_size for p in parts if p.path_in_schema == "text"]
            _check_inflated(path, sum(stated))
            total = 0
            for batch in file.iter_batches(batch_size=16, columns=["text"]):
                total += batch.nbytes  # a dictionary may state one row for many
                _check_inflated(path, total)
                rows = (row or "" for row in batch.column(0).to_pylist())
                yield "".join(row if row.endswith("\n") else f"{row}\n" for row in rows)
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        detail = str(error).splitlines()[0]
        raise DataError(path, f"no parquet ({detail})", expected) from error
