"""Tensors whose memory comes back to a pool once nobody holds them.

The activations that a backward pass needs are large and of the same sizes at every step; fresh
memory would page-fault each time.
"""

import weakref
from typing import Any

import numpy as np
import torch

from gatecore.backends.explicit.workspace import Workspace

_POOL = Workspace(np)


def take(shape: tuple[int, ...], dtype: Any) -> torch.Tensor:
    """An uninitialised CPU tensor; ``dtype`` is NumPy's."""
    buffer = _POOL.take(shape, dtype)
    view = buffer.view()  # lives as long as the tensor's storage: its end is the memory's return
    give = weakref.finalize(view, _POOL.give, [buffer])
    give.atexit = False
    return torch.from_numpy(view)


def release() -> None:
    """Free the memory that is kept for later calls."""
    _POOL.release()
