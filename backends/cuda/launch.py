"""CuPy's side: finding it, compiling the kernels, launching them, and recording sequences.

A sequence is thousands of small launches, each of which costs the host more than the GPU. The
first call of a shape runs them one by one, which compiles and loads whatever they need; the second
records them in a CUDA graph; from then on a sequence is one launch.
"""

import functools
import importlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import source, support
from gatecore.backends.cuda.steps import GraphBuffers, Kernel, KernelEngine

Array = Any

_INSTALL = "pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' with a CUDA 12 driver)"
_MAX_SHAPES = 32  # whose graphs are kept; the least recently used goes first


def require() -> Any:
    """CuPy, with a GPU and the CUDA libraries that the backend uses; else ImportError."""
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(f"the CuPy backend needs CuPy, which is missing: {_INSTALL}") from error
    if not cupy.cuda.is_available():
        raise ImportError(f"the CuPy backend needs an NVIDIA GPU: CuPy {cupy.__version__} is "
                          "installed but finds none (is the driver installed, and does "
                          "CUDA_VISIBLE_DEVICES hide the GPU?)")  # fmt: skip
    try:
        cupy.cuda.cublas.getVersion(cupy.cuda.Device().cublas_handle)
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError("the CuPy backend needs cuBLAS and NVRTC, and CuPy could not load them "
                          f"({error}): {_INSTALL}") from error  # fmt: skip
    return cupy


class CudaLauncher:
    """Runs the kernels through CuPy, on its current device and stream."""

    def __init__(self, cupy: Any) -> None:
        self.xp = cupy
        self._buffers: OrderedDict[tuple[Any, ...], GraphBuffers] = OrderedDict()

    def pointer(self, array: Array) -> int:
        return int(array.data.ptr)

    def upload(self, record: np.ndarray, target: Array) -> None:
        """Copy the arguments, in the stream's order: after the kernels that still read the last."""
        target.set(record.view(np.uint8))

    def kernels(self, layout: Layout, dtype: Any, batch: int) -> Sequence[Kernel]:
        """The forward and the backward kernel, compiled at the first request."""
        device = self.xp.cuda.runtime.getDevice()
        compiled = _compiled(self.xp, source.names(layout, dtype), device)
        shape = support.geometry(layout, batch, np.dtype(dtype).itemsize)
        return [functools.partial(_launch, kernel, shape) for kernel in compiled]

    def buffers(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> GraphBuffers:
        """The buffers for this shape on the current device and stream."""
        device = self.xp.cuda.runtime.getDevice()
        stream = self.xp.cuda.get_current_stream().ptr
        key = (device, stream, layout.cell, steps, str(dtype))
        buffers = self._buffers.pop(key, None) or GraphBuffers(self.xp, layout, steps, dtype)
        self._buffers[key] = buffers
        while len(self._buffers) > _MAX_SHAPES:
            self._buffers.popitem(last=False)
        return buffers

    def replay(self, buffers: GraphBuffers, direction: str, body: Callable[[], None]) -> None:
        """Run the body the first time, record it the second, and launch the graph."""
        if direction not in buffers.graphs:
            buffers.graphs[direction] = None
            body()
            return
        if buffers.graphs[direction] is None:
            buffers.graphs[direction] = self._record(body)
        buffers.graphs[direction].launch()

    def release(self) -> None:
        self._buffers.clear()

    def _record(self, body: Callable[[], None]) -> Any:
        stream = self.xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                body()
            finally:
                graph = stream.end_capture()
        return graph


def _launch(kernel: Any, shape: support.Geometry, arguments: Array, t: int) -> None:
    kernel(shape.grid, (shape.threads,), (arguments, np.int64(t)), shared_mem=shape.shared)


@functools.cache
def _compiled(cupy: Any, names: tuple[str, str], device: int) -> list[Any]:
    """The kernels of these names, for the current ``device``; CuPy keeps them on disk too."""
    options = {"options": source.OPTIONS, "name_expressions": list(names)}
    module = cupy.RawModule(code=source.text(), **options)
    return [module.get_function(name) for name in names]


@functools.cache
def launcher() -> CudaLauncher:
    """The one launcher, whose graphs all users of the kernels share."""
    return CudaLauncher(require())


@functools.cache
def engine(device: int) -> KernelEngine:
    """The engine for the GPU of that number, which must be the current one."""
    capability = int(launcher().xp.cuda.Device(device).compute_capability)
    return KernelEngine(launcher(), support.device_unsupported(capability))
