"""Errors about data files: the file's name, its defect, and the expected content."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from gatecore.tasks.safe_files import reason


class DataError(ValueError):
    """A data file that is missing, or does not hold what it should."""

    def __init__(self, path: Path | str, found: str, expected: str) -> None:
        super().__init__(f"{path}: found {found}; expected {expected}")


@contextlib.contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Turn the operating system's errors about ``path`` into :class:`DataError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(path, "no such file", expected) from error
    except OSError as error:
        raise DataError(path, f"that it cannot be read ({reason(error)})", expected) from error


def check_path(data: str, embedded: str, path: str | None) -> None:
    """Raise ValueError unless ``path`` is given exactly when ``data`` is not the embedded set."""
    if (data == embedded) != (path is None):
        expected = "no path" if data == embedded else "a path, the folder of its files"
        raise ValueError(f"data={data!r} needs {expected}, got path={path!r}")
