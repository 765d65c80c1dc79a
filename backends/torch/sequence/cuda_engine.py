"""The CUDA kernels on one of torch's GPUs: the kernels, and the plans that later calls use again.

Everything is enqueued on torch's current stream of that GPU, and all memory is torch's. Within
somebody else's capture, or in the registered operator, which torch.compile may capture, plans are
made anew and nothing is recorded.
"""

import functools
import threading
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import cublas, source
from gatecore.backends.cuda.loader import Loader
from gatecore.backends.cuda.recording import Recent, Recorder
from gatecore.backends.torch.sequence.cuda_plan import Plan, matrix
from gatecore.backends.torch.sequence.implementation import DTYPES
from gatecore.cells import Cell


class Engine:
    """The kernels on one of torch's GPUs; OSError where their libraries are missing.

    ``lock`` is held, and ``device`` is the current one, while a plan is used.
    """

    def __init__(self, device: Any) -> None:
        self.device, self.lock = device, threading.RLock()
        self.loader = Loader(device.capability(), device.cuda_version())
        self.product = cublas.Product(matrix)
        self.recorder, self._plans = Recorder(), Recent[Plan]()
        self._workspaces: dict[int, Tensor] = {}

    def plan(self, cell: Cell, like: Tensor, keep: bool) -> "Plan":
        """The plan for sequences of the shape (time, batch, …) of ``like`` on the current stream.

        It is made anew within a capture, and without ``keep``.
        """
        stream, tf32 = self.device.stream(), self.device.tf32()
        if not keep or self.device.capturing():
            return Plan(self, cell, like, stream, _workspace(like), tf32, keep=False)
        time, batch, _ = like.shape
        key = (stream, tf32, cell, time, batch, like.dtype)
        if stream not in self._workspaces:
            self._workspaces[stream] = _workspace(like)
        workspace = self._workspaces[stream]
        make = functools.partial(Plan, self, cell, like, stream, workspace, tf32, keep=True)
        plan = self._plans.obtain(key, make)
        plan.resume()
        return plan

    def functions(self, cell: Cell, dtype: torch.dtype) -> Any:
        """The forward and the backward kernel, and that which copies."""
        return self.loader.functions(_names(cell, dtype))

    def loaded(self, cell: Cell, dtype: torch.dtype) -> bool:
        """Whether the kernels of a cell have been loaded."""
        return self.loader.loaded(_names(cell, dtype))

    def release(self) -> None:
        """Free all plans, with their buffers and graphs."""
        with self.lock:
            self._plans.clear()
            self._workspaces.clear()


def _workspace(like: Tensor) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty(cublas.WORKSPACE, dtype=torch.uint8, device=like.device)


@functools.lru_cache(maxsize=256)
def _names(cell: Cell, dtype: torch.dtype) -> tuple[str, ...]:
    return source.names(layout_of(cell), DTYPES[dtype])
