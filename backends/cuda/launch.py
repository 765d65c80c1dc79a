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
from gatecore.backends.cuda.engine import KernelEngine
from gatecore.backends.cuda.steps import Station

Array = Any

_INSTALL = "pip install 'cupy-cuda13x[ctk]' (or 'cupy-cuda12x[ctk]' with a CUDA 12 driver)"
_STATIONS = 32  # shapes whose graphs are kept; the one not used for longest goes first


def require() -> Any:
    """CuPy, with a GPU and the CUDA libraries that the backend uses.

    Raises
    ------
    ImportError
        Saying which of them is missing, and what to do.
    """
    try:
        cupy = importlib.import_module("cupy")
    except ImportError as error:
        raise ImportError(f"the CuPy backend needs CuPy, which is missing: {_INSTALL}") from error
    if not cupy.cuda.is_available():
        raise ImportError(
            f"the CuPy backend needs an NVIDIA GPU: CuPy {cupy.__version__} is installed but finds "
            "none (is the driver installed, and does CUDA_VISIBLE_DEVICES hide the GPU?)"
        )
    try:
        cupy.cuda.cublas.getVersion(cupy.cuda.Device().cublas_handle)
        cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f"the CuPy backend needs cuBLAS and NVRTC, and CuPy could not load them ({error}): "
            f"{_INSTALL}"
        ) from error
    return cupy


class CudaLauncher:
    """Runs the kernels through CuPy, on its current device and stream."""

    def __init__(self, cupy: Any) -> None:
        self.xp = cupy
        self._stations: OrderedDict[tuple[Any, ...], Station] = OrderedDict()

    def pointer(self, array: Array) -> int:
        """The address of an array in device memory."""
        return int(array.data.ptr)

    def upload(self, record: np.ndarray, target: Array) -> None:
        """Copy the table, in the stream's order: after the kernels that still read the last one."""
        target.set(record.view(np.uint8))

    def kernels(
        self, layout: Layout, dtype: Any, batch: int
    ) -> Sequence[Callable[[Array, int], None]]:
        """The forward and the backward kernel, compiled at the first request."""
        device = self.xp.cuda.runtime.getDevice()
        compiled = _compiled(self.xp, source.names(layout, dtype), device)
        shape = support.geometry(layout, batch, np.dtype(dtype).itemsize)
        return [functools.partial(_launch, kernel, shape) for kernel in compiled]

    def station(self, layout: Layout, steps: tuple[int, int], dtype: Any) -> Station:
        """The station for this shape on the current device and stream."""
        device = self.xp.cuda.runtime.getDevice()
        stream = self.xp.cuda.get_current_stream().ptr
        key = (device, stream, layout.cell, steps, str(dtype))
        station = self._stations.pop(key, None) or Station(self.xp, layout, steps, dtype)
        self._stations[key] = station
        while len(self._stations) > _STATIONS:
            self._stations.popitem(last=False)
        return station

    def replay(self, station: Station, direction: str, body: Callable[[], None]) -> None:
        """Run the body the first time, record it the second, and launch the record."""
        if direction not in station.recorded:
            station.recorded[direction] = None
            body()
            return
        if station.recorded[direction] is None:
            station.recorded[direction] = self._record(body)
        station.recorded[direction].launch()

    def release(self) -> None:
        """Forget all stations and their graphs."""
        self._stations.clear()

    def _record(self, body: Callable[[], None]) -> Any:
        stream = self.xp.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            try:
                body()
            finally:
                graph = stream.end_capture()
        return graph


def _launch(kernel: Any, shape: support.Geometry, table: Array, t: int) -> None:
    kernel(shape.grid, (shape.threads,), (table, np.int64(t)), shared_mem=shape.shared)


@functools.cache
def _compiled(cupy: Any, names: tuple[str, str], device: int) -> list[Any]:
    """The kernels of these names, for the current ``device``; CuPy keeps them on disk too."""
    module = cupy.RawModule(
        code=source.text(), options=source.OPTIONS, name_expressions=list(names)
    )
    return [module.get_function(name) for name in names]


@functools.cache
def launcher() -> CudaLauncher:
    """The one launcher: every user of the kernels shares its stations."""
    return CudaLauncher(require())


@functools.cache
def engine(device: int) -> KernelEngine:
    """The engine for the GPU of that number, which must be the current one."""
    capability = int(launcher().xp.cuda.Device(device).compute_capability)
    return KernelEngine(launcher(), support.device_reason(capability))
