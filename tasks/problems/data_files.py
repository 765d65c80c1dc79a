"""Files from outside. What is wrong with one is told by name, with what was found and expected."""

import contextlib
from collections.abc import Iterator
from pathlib import Path


class DataError(ValueError):
    """A data file that is missing, or is not what it should be."""

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
        raise DataError(path, f"that it cannot be read ({error.strerror})", expected) from error
