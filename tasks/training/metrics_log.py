"""The metrics of a run: lines of JSON, each with a checksum over itself and the lines before it.

So a changed digit, a missing line and a file of another run are detected. An incomplete last line,
which a killed process may leave, is ignored. A :class:`Mark` records the log's length at a
checkpoint.
"""

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from gatecore.tasks.training.atomic_files import DamagedError, finite, replace, sync, writing

CHECK = "check"


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
        body = json.dumps(finite(line))
        mark = Mark(self.mark.lines + 1, _chain(body, self.mark.check))
        with writing(self.path), open(self.path, "a", encoding="utf-8") as stream:
            stream.write(f'{body[:-1]}, "{CHECK}": "{mark.check:08x}"}}\n')
        self.mark, self._synced = mark, False

    def sync(self) -> None:
        """Flush all lines to the disk, which they must reach before a checkpoint does."""
        if not self._synced:
            with writing(self.path):
                sync(self.path)
            self._synced = True

    def rewind(self, mark: Mark | None) -> None:
        """Remove the lines after a mark (None: all lines): the resumed run writes them again."""
        lines = []
        if mark is not None:
            lines = _lines(self.path)[: mark.lines]
            _, marks = _parse(self.path, lines, self.identity)
            check_mark(self.path, marks, mark)
        replace(self.path, "".join(f"{line}\n" for line in lines).encode())
        self.mark = Mark(0, _chain(self.identity, 0)) if mark is None else mark


def read(path: Path, identity: str) -> tuple[list[dict[str, Any]], list[Mark]]:
    """The complete lines, without their checksums, and the mark after each."""
    return _parse(path, _lines(path), identity)


def check_mark(path: Path, marks: list[Mark], mark: Mark) -> None:
    """Raise DamagedError unless ``mark`` is one of the log's."""
    if mark.lines and (len(marks) < mark.lines or marks[mark.lines - 1] != mark):
        raise DamagedError(path, f"lacks some of the {mark.lines} lines that the run wrote there, "
                           "or is of another run")  # fmt: skip


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise DamagedError(path, f"cannot be read: {error}") from error


def _parse(path: Path, lines: list[str], identity: str) -> tuple[list[dict[str, Any]], list[Mark]]:
    metrics, marks, check, checked = [], [], _chain(identity, 0), False
    for number, text in enumerate(lines, start=1):
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DamagedError(path, f"cannot be read: line {number}: {error}") from error
        recorded = line.pop(CHECK, None) if isinstance(line, dict) else None
        if not _is_metrics(line):
            raise DamagedError(path, f"line {number} should be an object with step, split and "
                               f"numbers, not {str(line)[:80]}")  # fmt: skip
        check = _chain(json.dumps(line), check)
        checked = checked or recorded is not None
        if checked and recorded != f"{check:08x}":
            raise DamagedError(path, f"line {number} was changed or damaged, or does not follow "
                               "the line before it")  # fmt: skip
        metrics.append(line)
        marks.append(Mark(number, check))
    return metrics, marks


def _chain(text: str, before: int) -> int:
    return zlib.crc32(text.encode(), before)


def _is_metrics(line: Any) -> bool:
    """Whether it has an integer step, a split, and otherwise numbers or null."""
    if not isinstance(line, dict) or line.get("split") not in ("train", "validation"):
        return False
    values = [value for name, value in line.items() if name != "split"]
    return type(line.get("step")) is int and all(
        value is None or type(value) in (int, float) for value in values
    )
