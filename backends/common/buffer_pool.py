"""Memory that is kept between calls: fresh large buffers would page-fault at every call."""

from typing import Any

import numpy as np


class Workspace:
    """A pool of flat buffers by type and size.

    Buffers taken are the taker's until it gives them back; so several pullbacks can be alive, and
    none of their memory is ever shared.

    Parameters
    ----------
    xp : array namespace
    capacity : int
        Bytes that the pool keeps at most while nobody uses them; beyond, the sizes that were not
        given back for longest go.
    """

    def __init__(self, xp: Any, capacity: int = 1 << 31) -> None:
        self.xp = xp
        self.capacity = capacity
        self._free: dict[tuple[str, int], list[Any]] = {}

    def take(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array of that shape."""
        size = 1
        for extent in shape:
            size *= extent
        try:  # rather than look first: another thread may take the last one
            buffer = self._free[np.dtype(dtype).char, size].pop()
        except (KeyError, IndexError):
            buffer = self.xp.empty(size, dtype=dtype)
        return buffer.reshape(shape)

    def give(self, arrays: list[Any]) -> None:
        """Take arrays back that :meth:`take` handed out; their users must be done with them."""
        for array in arrays:
            key = array.dtype.char, array.size
            free = self._free.pop(key, [])
            free.append(array.reshape(-1))
            self._free[key] = free  # now the last one to go
        while self._kept() > self.capacity:
            for oldest in list(self._free)[:1]:  # of a copy: another thread may change it
                self._free.pop(oldest, None)

    def release(self) -> None:
        """Free the memory that is kept."""
        self._free.clear()

    def _kept(self) -> int:
        return sum(buffer.nbytes for free in list(self._free.values()) for buffer in free)
