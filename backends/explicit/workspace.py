"""Memory that is kept between calls: fresh large buffers would page-fault at every call."""

from collections import defaultdict
from typing import Any


class Workspace:
    """A pool of flat buffers by type and size.

    Buffers taken are the taker's until it gives them back; so several pullbacks can be alive, and
    none of their memory is ever shared.

    Parameters
    ----------
    xp : array namespace
    capacity : int
        Bytes that the pool keeps at most while nobody uses them.
    """

    def __init__(self, xp: Any, capacity: int = 1 << 31) -> None:
        self.xp = xp
        self.capacity = capacity
        self._free: dict[tuple[str, int], list[Any]] = defaultdict(list)
        self._kept = 0

    def take(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """An uninitialised array of that shape."""
        size = 1
        for extent in shape:
            size *= extent
        free = self._free[str(dtype), size]
        if free:
            buffer = free.pop()
            self._kept -= buffer.nbytes
        else:
            buffer = self.xp.empty(size, dtype=dtype)
        return buffer.reshape(shape)

    def give(self, arrays: list[Any]) -> None:
        """Take arrays back that :meth:`take` handed out; their users must be done with them."""
        for array in arrays:
            if self._kept + array.nbytes <= self.capacity:
                self._free[str(array.dtype), array.size].append(array.reshape(-1))
                self._kept += array.nbytes

    def release(self) -> None:
        """Free the memory that is kept."""
        self._free.clear()
        self._kept = 0
