"""CuPy's side: finding it, compiling the kernels, launching them, and recording sequences."""

import contextlib
import functools
import importlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import cublas, selftest, source, support
from gatecore.backends.cuda.copies import COPIES
from gatecore.backends.cuda.recording import Recent, Recorder
from gatecore.backends.cuda.steps import Body, GraphBuffers, Kernel, KernelEngine
from gatecore.backends.numpy import bptt

Array = Any

_NO_COPIES = np.zeros(1, COPIES)
_INSTALL = "pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' with a CUDA 12 driver)"


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
        self._buffers, self._recorder = Recent[GraphBuffers](), Recorder()
        self._products: weakref.WeakValueDictionary[tuple[int, int], _Product] = (
            weakref.WeakValueDictionary()
        )

    def pointer(self, array: Array) -> int:
        return int(array.data.ptr)

    def upload(self, record: np.ndarray, buffers: GraphBuffers) -> None:
        """Copy a call's arguments, in the stream's order: after the kernels that read the last.

        By a kernel that has them by value: a copy from the host's memory may wait for the stream.
        """
        *_, copy = self._compiled(buffers)
        copy((1,), (1,), (buffers.arguments, record, _NO_COPIES))

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
        make = functools.partial(GraphBuffers, self, layout, steps, dtype)
        return self._buffers.obtain(key, make)

    def replay(self, buffers: GraphBuffers, direction: str, body: Body) -> None:
        """Run the body, or launch the graph that was recorded of an earlier one."""
        steps = functools.partial(body, self.xp.matmul)
        record = functools.partial(self._record, buffers, direction, body)
        self._recorder.run(buffers.graphs, direction, steps, record)

    def release(self) -> None:
        with self.lock:
            self._buffers.clear()

    def _record(self, buffers: GraphBuffers, direction: str, body: Body) -> Callable[[], None]:
        """A function that launches the graph of a body."""
        product = buffers.product = buffers.product or self._product()
        a, b, out = buffers.products[direction]
        product(a, b, self.xp.empty(out.shape, dtype=out.dtype))  # loads its kernel
        caller, stream = self.xp.cuda.get_current_stream(), self.xp.cuda.Stream(non_blocking=True)
        product.on_stream(stream.ptr)
        try:
            with stream:
                stream.begin_capture()
                with contextlib.ExitStack() as failing:  # also at an interrupt
                    failing.callback(_abandon, stream)
                    body(product)
                    failing.pop_all()
                launch: Callable[[], None] = stream.end_capture().launch
                return launch
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


def _abandon(stream: Any) -> None:
    """End a capture that failed, and may be invalid already."""
    with contextlib.suppress(Exception):
        stream.end_capture()


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
