"""A pool of arrays that calls reuse: fresh large buffers would page-fault at every call."""

import contextlib
import math
import mmap
from typing import Any

import numpy as np


class BufferPool:
    """A pool of flat buffers of an array namespace by dtype and size.

    An acquired buffer is used by nobody else until it is released; so several pullbacks can be
    alive at once. Of released buffers it keeps at most ``capacity`` bytes: beyond, it frees those
    of the sizes released least recently.
    """

    def __init__(self, xp: Any, capacity: int = 1 << 31) -> None:
        self.xp = xp
        self.capacity = capacity
        self._free: dict[tuple[str, int], list[Any]] = {}

    def acquire(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array of that shape."""
        size = math.prod(shape)
        try:  # not a look first: another thread may take the last one
            buffer = self._free[np.dtype(dtype).char, size].pop()
        except (KeyError, IndexError):
            buffer = empty(size, dtype) if self.xp is np else self.xp.empty(size, dtype=dtype)
        return buffer.reshape(shape)

    def release(self, arrays: list[Any]) -> None:
        """Return arrays that :meth:`acquire` returned; nobody may use them any more."""
        for array in arrays:
            key = array.dtype.char, array.size
            free = self._free.pop(key, [])
            free.append(array.reshape(-1))
            self._free[key] = free  # now the last to be freed
        # of copies: another thread may change them
        while sum(b.nbytes for free in list(self._free.values()) for b in free) > self.capacity:
            for oldest in list(self._free)[:1]:
                self._free.pop(oldest, None)

    def clear(self) -> None:
        """Free all released buffers."""
        self._free.clear()


_HUGE = 1 << 21  # bytes of a huge page


def empty(size: int, dtype: Any) -> Any:
    """An uninitialised flat NumPy array; on Linux, one of 4 MB or more is backed by huge pages.

    The heap is of small pages. Translating their addresses took a sixth of the time of a training
    step of an LSTM of 1,024 units.
    """
    count = np.dtype(dtype).itemsize * size
    if count >= 2 * _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            pages = mmap.mmap(-1, count + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_HUGEPAGE)
            start = -np.frombuffer(pages, np.uint8).ctypes.data % _HUGE
            return np.frombuffer(pages, dtype, size, start)
    return np.empty(size, dtype)
