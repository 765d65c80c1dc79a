"""CuPy's side: finding it, compiling the kernels, launching them, and recording sequences.

A sequence is thousands of small launches, each of which costs the host more than the GPU. The
first call of a shape runs them one by one, which compiles and loads whatever they need; the second
records them in a CUDA graph; from then on a sequence is one launch. What can't be recorded is run
one by one at every call.
"""

import contextlib
import functools
import importlib
import logging
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import cublas, selftest, source, support
from gatecore.backends.cuda.steps import Body, GraphBuffers, Kernel, KernelEngine
from gatecore.backends.numpy import bptt

Array = Any

_INSTALL = "pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' with a CUDA 12 driver)"
_LOGGER = logging.getLogger(__name__)
_RAN = "ran"  # once, one by one: the next call is recorded
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
        self.xp: Any = cupy
        self.lock: AbstractContextManager[Any] = threading.RLock()
        self._buffers: OrderedDict[tuple[Any, ...], GraphBuffers] = OrderedDict()
        self._products: weakref.WeakValueDictionary[tuple[int, int], _Product] = (
            weakref.WeakValueDictionary()
        )
        self._logged: set[str] = set()

    def pointer(self, array: Array) -> int:
        return int(array.data.ptr)

    def upload(self, record: np.ndarray, buffers: GraphBuffers) -> None:
        """Copy a call's arguments, in the stream's order: after the kernels that read the last.

        By a kernel that has them by value: a copy from the host's memory may wait for the stream.
        """
        *_, upload = self._compiled(buffers)
        upload((1,), (1,), (buffers.arguments, record))

    def kernels(self, buffers: GraphBuffers) -> Sequence[Kernel]:
        """The forward and the backward kernel, compiled at the first request."""
        forward, backward, _ = self._compiled(buffers)
        geometry = support.geometry(buffers.layout, buffers.batch, buffers.dtype.itemsize)
        return [functools.partial(_launch, kernel, geometry) for kernel in (forward, backward)]

    def _compiled(self, buffers: GraphBuffers) -> list[Any]:
        names = source.names(buffers.layout, buffers.dtype)
        return _compiled(self.xp, names, self.xp.cuda.runtime.getDevice())

    def buffers(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> GraphBuffers:
        """The buffers for this shape on the current device and stream."""
        device = self.xp.cuda.runtime.getDevice()
        stream = self.xp.cuda.get_current_stream().ptr
        key = (device, stream, layout.cell, steps, str(dtype))
        buffers = self._buffers.pop(key, None) or GraphBuffers(self, layout, steps, dtype)
        self._buffers[key] = buffers
        while len(self._buffers) > _MAX_SHAPES:
            self._buffers.popitem(last=False)
        return buffers

    def replay(self, buffers: GraphBuffers, direction: str, body: Body) -> None:
        """Run the body the first time, record it the second, and launch the graph.

        A body that can't be recorded is run at every call, and the reason is logged once.
        """
        state = buffers.graphs.get(direction)
        if state == _RAN:
            state = buffers.graphs[direction] = self._recorded(buffers, direction, body)
        buffers.graphs.setdefault(direction, _RAN)
        state.launch() if state else body(self.xp.matmul)

    def release(self) -> None:
        with self.lock:
            self._buffers.clear()

    def _recorded(self, buffers: GraphBuffers, direction: str, body: Body) -> Any:
        """The graph of a body, or False if it can't be recorded."""
        try:
            buffers.product = buffers.product or self._product()
            a, b, out = buffers.products[direction]
            buffers.product(a, b, self.xp.empty(out.shape, dtype=out.dtype))  # loads its kernel
            return self._record(buffers.product, body)
        except Exception as error:  # noqa: BLE001 - nothing has run yet, so the body still can
            reason = f"{type(error).__name__}: {error}"
            if reason not in self._logged:
                self._logged.add(reason)
                _LOGGER.warning("sequences run without a CUDA graph, because recording one raised "
                                "%s", reason)  # fmt: skip
            return False

    def _record(self, product: "_Product", body: Body) -> Any:
        caller, stream = self.xp.cuda.get_current_stream(), self.xp.cuda.Stream(non_blocking=True)
        product.on_stream(stream.ptr)
        try:
            with stream:
                stream.begin_capture()
                try:
                    body(product)
                except BaseException:
                    with contextlib.suppress(Exception):  # the capture may be invalid already
                        stream.end_capture()
                    raise
                return stream.end_capture()
        finally:
            product.on_stream(caller.ptr)

    def _product(self) -> "_Product":
        """The products of the current device and stream, which share a workspace."""
        stream = self.xp.cuda.get_current_stream().ptr
        key = (self.xp.cuda.runtime.getDevice(), stream)
        if key not in self._products:
            created = self._products[key] = _Product(self.xp).on_stream(stream)
            return created
        return self._products[key]


class _Product(cublas.Product):
    """Products of CuPy's arrays, with a workspace of CuPy's memory."""

    def __init__(self, cupy: Any) -> None:
        super().__init__(_matrix)
        self._workspace = cupy.empty(cublas.WORKSPACE, dtype=np.uint8)

    def on_stream(self, stream: int) -> "_Product":
        self.on(stream, self._workspace.data.ptr, tf32=_tf32())
        return self


def _matrix(array: Array) -> cublas.Matrix:
    outer, inner = (stride // array.itemsize for stride in array.strides)
    return cublas.Matrix(array.data.ptr, array.shape, (outer, inner), str(array.dtype))


def _tf32() -> bool:
    return os.environ.get("CUPY_TF32") == "1"  # CuPy's switch


def _launch(kernel: Any, geometry: support.Geometry, buffers: GraphBuffers, launch: int) -> None:
    # CuPy passes an array of NumPy's by value, if it has one element
    arguments = (buffers.shape, buffers.arguments, np.int64(launch))
    kernel(geometry.grid, (geometry.threads,), arguments, shared_mem=geometry.shared)


@functools.cache
def _compiled(cupy: Any, names: tuple[str, ...], device: int) -> list[Any]:
    """The kernels of these names, for the current ``device``; CuPy keeps them on disk too."""
    options = {"options": source.OPTIONS, "name_expressions": list(names)}
    module = cupy.RawModule(code=source.text(), **options)
    return [module.get_function(name) for name in names]


@functools.cache
def launcher() -> CudaLauncher:
    """The one launcher, whose graphs all users of the kernels share."""
    return CudaLauncher(require())


def release() -> None:
    """Free the recorded graphs and the memory that CuPy keeps, where a launcher was made."""
    if launcher.cache_info().currsize:
        launcher().release()
        launcher().xp.get_default_memory_pool().free_all_blocks()


@functools.cache
def engine(device: int) -> KernelEngine:
    """The engine for the GPU of that number, which must be the current one."""
    return KernelEngine(launcher(), functools.partial(_device_unsupported, device))


def _device_unsupported(device: int) -> str | None:
    """Why the kernels cannot run on the GPU of that number, which is the current one."""
    capability = int(launcher().xp.cuda.Device(device).compute_capability)
    tolerance = selftest.TF32_TOLERANCE if _tf32() else selftest.TOLERANCE
    return support.device_unsupported(capability) or selftest.failure(_run, tolerance)


def _run(params: Any, x: Array, d_output: Array) -> list[np.ndarray]:
    """The self-test's sequence by CuPy, whose current device it runs on."""
    cupy, cell, array = launcher().xp, selftest.CELL, launcher().xp.asarray
    on_device = {name: array(value) for name, value in params.items()}
    output, _, pullback = bptt.run(
        KernelEngine(launcher()), cell.core, on_device, array(x), None, cell.mechanism, impl="fused"
    )
    d_params, d_x, _ = pullback(array(d_output))
    return [cupy.asnumpy(result) for result in (output, d_x, *d_params.values())]
