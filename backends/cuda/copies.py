"""The copies around a sequence: a call's arrays into the buffers that stay in place, and back."""

import ctypes
import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# `Copy` of copies.cuh; MOST of them are `Copies`
ADDRESSES = ("target", "source", "added", "zeroed")
SIZES = ("rows", "columns", "target_stride", "source_stride")
MOST = 8
COPIES = np.dtype([("copies", [(name, np.int64) for name in (*ADDRESSES, *SIZES)], (MOST,))])
THREADS = 256  # of a block

_BLOCKS = 1024  # of a copy, at most: eight for each multiprocessor of a large GPU
_ENTRIES = 4  # of a thread, while there are fewer blocks
_WORDS = len(ADDRESSES) + len(SIZES)


class Matrix(NamedTuple):
    """The sizes of a copy: of its target, and strides in numbers between rows.

    A ``source_stride`` of 0 repeats one row.
    """

    rows: int
    columns: int
    target_stride: int
    source_stride: int


class Copies:
    """Copies by name, of fixed sizes; the addresses are set before each launch.

    ``words`` is the kernel's parameter, ``blocks`` the grid's first size; its second is the number
    of copies.
    """

    def __init__(self, sizes: Mapping[str, Matrix]) -> None:
        self.words = (ctypes.c_int64 * (MOST * _WORDS))()
        self.count = len(sizes)
        self._first = {name: _WORDS * k for k, name in enumerate(sizes)}
        for first, matrix in zip(self._first.values(), sizes.values(), strict=True):
            self.words[first + len(ADDRESSES) : first + _WORDS] = list(matrix)
        largest = max(matrix.rows * matrix.columns for matrix in sizes.values())
        self.blocks = max(1, min(_BLOCKS, math.ceil(largest / (_ENTRIES * THREADS))))

    def set(self, name: str, target: int, source: int = 0, added: int = 0, zeroed: int = 0) -> None:
        """Set the addresses of a copy, 0 for none: without a source the target becomes zeros."""
        first = self._first[name]
        self.words[first : first + len(ADDRESSES)] = [target, source, added, zeroed]
