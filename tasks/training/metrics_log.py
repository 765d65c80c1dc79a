"""The metrics of a run: lines of JSON, each with a checksum over itself and the lines before it.

So a changed digit, a missing line and a file of another run are detected. An incomplete last line,
of a killed process, is ignored. A :class:`Mark` records the log's length at a checkpoint.
"""

import itertools
import json
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gatecore.tasks.safe_files import UnsafeError, descriptor, parse_json, sync
from gatecore.tasks.training.atomic_files import DamagedError, finite, replace, upgrading, writing

CHECK = "check"
_MOST_BYTES = 1 << 30
_LARGEST = 1 << 64  # of a value


class Mark(NamedTuple):
    """A number of lines, and the checksum of the last of them."""

    lines: int
    check: int


class Log:
    """Writes a run's metrics. ``identity`` is the checksum of the run's config."""

    def __init__(self, path: Path, identity: str) -> None:
        self.path, self.identity = path, identity
        self.mark = Mark(0, _chain(identity, 0))
        self._synced = True

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line, and flush it."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        with writing(self.path), open(descriptor(self.path, flags), "ab") as stream:
            stream.write(self._signed(line))
        self._synced = False

    def rewrite(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Replace all lines."""
        self.mark = Mark(0, _chain(self.identity, 0))
        replace(self.path, *map(self._signed, lines))

    def sync(self) -> None:
        """Flush all lines to the disk, which they must reach before a checkpoint does."""
        if not self._synced:
            with writing(self.path):
                sync(self.path)
            self._synced = True

    def rewind(self, mark: Mark | None) -> None:
        """Remove the lines after a mark (None: all lines): the resumed run writes them again."""
        lines, marks = read(self.path, self.identity, mark.lines) if mark else ([], [])
        if mark:
            check_mark(self.path, marks, mark)
        self.rewrite(lines)

    def _signed(self, line: Mapping[str, Any]) -> bytes:
        """The line with the checksum that follows the last one."""
        body = json.dumps(finite(line))
        self.mark = Mark(self.mark.lines + 1, _chain(body, self.mark.check))
        return f'{body[:-1]}, "{CHECK}": "{self.mark.check:08x}"}}\n'.encode()


def read(path: Path, identity: str, most: int | None = None, *,
         unsigned: bool = False) -> tuple[list[dict[str, Any]], list[Mark]]:  # fmt: skip
    """The complete lines (the first ``most``) and their marks; ``unsigned`` admits no checksums."""
    metrics: list[dict[str, Any]] = []
    marks: list[Mark] = []
    check, checked = _chain(identity, 0), not unsigned
    try:
        with open(descriptor(path), "rb") as stream:
            if os.fstat(stream.fileno()).st_size > _MOST_BYTES:
                raise UnsafeError(path, f"has more than {_MOST_BYTES:,} bytes")
            for number, text in enumerate(itertools.islice(stream, most), start=1):
                if not text.endswith(b"\n"):
                    break  # a killed process left it incomplete
                try:
                    line = parse_json(text)
                except ValueError as error:
                    raise ValueError(f"line {number}: {error}") from error
                recorded = line.pop(CHECK, None) if isinstance(line, dict) else None
                if not _is_metrics(line):
                    raise DamagedError(path, f"line {number} should be an object with step, split "
                                       f"and numbers, not {str(line)[:80]}")  # fmt: skip
                check = _chain(json.dumps(line), check)
                if checked and recorded is None and not marks:
                    raise DamagedError(path, f"has no {CHECK} of its lines", upgrading(path))
                checked = checked or recorded is not None
                if checked and recorded != f"{check:08x}":
                    raise DamagedError(path, f"line {number} was changed or damaged, or does not "
                                       "follow the line before it")  # fmt: skip
                metrics.append(line)
                marks.append(Mark(number, check))
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError) as error:
        raise DamagedError(path, f"cannot be read: {error}") from error
    return metrics, marks


def check_mark(path: Path, marks: list[Mark], mark: Mark) -> None:
    """Raise DamagedError unless ``mark`` is one of the log's."""
    if mark.lines and (len(marks) < mark.lines or marks[mark.lines - 1] != mark):
        raise DamagedError(path, f"lacks some of the {mark.lines} lines that the run wrote there, "
                           "or is of another run")  # fmt: skip


def _chain(text: str, before: int) -> int:
    return zlib.crc32(text.encode(), before)


def _is_metrics(line: Any) -> bool:
    """Whether it has an integer step, a split, and otherwise numbers or null."""
    if not isinstance(line, dict) or line.get("split") not in ("train", "validation"):
        return False
    values = [v for name, v in line.items() if name != "split" and v is not None]
    return type(line.get("step")) is int and all(
        type(v) is float or (type(v) is int and abs(v) < _LARGEST) for v in values)  # fmt: skip
