"""Large tensors whose memory returns to a pool when they are freed.

Saved activations have the same sizes at every training step; fresh memory would page-fault. The
pool's memory is of huge pages.
"""

import math
import weakref

import numpy as np
import torch

from gatecore.backends.common.buffer_pool import BufferPool

_POOL = BufferPool(np)
_LARGE = 1 << 19  # elements; making a tensor of the pool's memory costs ten microseconds
_DTYPES = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def empty(like: torch.Tensor, *sizes: int) -> torch.Tensor:
    """An uninitialised tensor of the dtype of ``like``, which is on a CPU, float32 or float64."""
    if math.prod(sizes) < _LARGE:
        return like.new_empty(*sizes)
    buffer = _POOL.acquire(sizes, _DTYPES[like.dtype])
    view = buffer.view()  # lives as long as the tensor's storage
    release = weakref.finalize(view, _POOL.release, [buffer])
    release.atexit = False
    return torch.from_numpy(view)


def release() -> None:
    """Free the pool's unused memory."""
    _POOL.clear()
