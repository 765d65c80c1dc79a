"""A stand-in for CuPy with NumPy's arrays, whose kernels are the host's build.

It notes what is asked of RawModule, streams and graphs. Whether a GPU then does the right thing is
for `make gpu`.
"""

import ctypes
import functools
import sys
import types
import warnings

import numpy as np

from gatecore import backends
from gatecore.backends.cuda import copies, launch, source, steps, support
from tests.cuda.host import address, instance


def forget():
    """Drop what was made with the stand-in."""
    sys.modules.pop("gatecore.backends.cupy", None)
    vars(backends).pop("cupy", None)
    for cached in (launch.launcher, launch.engine, launch._compiled):
        cached.cache_clear()


class Pointed(np.ndarray):
    """A NumPy array with CuPy's ways to its memory, and its refusals while a stream is captured."""

    capturing = False  # whether the current stream is
    waits = 0  # how often the host waited for a number

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def set(self, values):
        """A copy from the host, of NumPy's array of this shape and dtype."""
        self._synchronous()
        if type(values) is not np.ndarray:
            raise TypeError(f"only a NumPy array can be set, got {type(values)}")
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"shape or dtype mismatch: {values.shape} {values.dtype} to "
                             f"{self.shape} {self.dtype}")  # fmt: skip
        self[...] = values

    def get(self):
        """A copy on the host."""
        self._synchronous()
        return np.array(self)

    def all(self, *arguments, **options):
        return np.asarray(super().all(*arguments, **options)).view(Pointed)

    def __bool__(self):
        self._synchronous()
        return bool(np.asarray(self))

    def item(self):
        self._synchronous()
        return super().item()

    tolist = item

    @staticmethod
    def _synchronous():
        if Pointed.capturing:
            raise RuntimeError("the current stream is capturing, so synchronous API calls are "
                               "disallowed")  # fmt: skip
        Pointed.waits += 1


class Stream:
    """A stream that notes what is recorded on it."""

    def __init__(self, cupy, ptr=7):
        self.cupy, self.ptr = cupy, ptr

    def __enter__(self):
        self.cupy.streams.append(self)

    def __exit__(self, *_):
        self.cupy.streams.pop()

    def begin_capture(self):
        self.cupy.captured, Pointed.capturing = [], True

    def end_capture(self):
        captured, self.cupy.captured = self.cupy.captured, None
        Pointed.capturing = False

        def launch():
            self.cupy.noted.append("graph")
            for work in captured:
                work()

        return types.SimpleNamespace(launch=launch)


SIGNATURES = {
    "cublasCreate_v2": (ctypes.POINTER(ctypes.c_void_p),),
    "cublasDestroy_v2": (ctypes.c_void_p,),
    "cublasSetStream_v2": (ctypes.c_void_p, ctypes.c_void_p),
    "cublasSetWorkspace_v2": (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
    "cublasGemmEx": (
        ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int,
        ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p,
        ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int,
        ctypes.c_int, ctypes.c_int, ctypes.c_int,
    ),
}  # fmt: skip


class Blas:
    """The functions of cuBLAS that `backends.cuda.cublas` calls, on the host's memory.

    Signatures are those of cublas_api.h. A call that cuBLAS could not do returns a status that is
    not 0, and what the library must do beforehand is checked: a workspace after each new stream.
    """

    HANDLE, INVALID = 4711, 7

    def __init__(self, cupy):
        self.cupy, self.stream, self.workspace, self.computed = cupy, 0, 0, []
        for name, types_ in SIGNATURES.items():
            method = getattr(self, name.removesuffix("_v2").removeprefix("cublas").lower())
            setattr(self, name, ctypes.CFUNCTYPE(ctypes.c_int, *types_)(method))

    def create(self, handle):
        handle[0] = self.HANDLE
        return 0

    def destroy(self, handle):
        return 0 if handle == self.HANDLE else self.INVALID

    def setstream(self, handle, stream):
        self.stream, self.workspace = stream or 0, 0
        return 0 if handle == self.HANDLE else self.INVALID

    def setworkspace(self, handle, pointer, size):
        self.workspace = size if pointer else 0
        return 0 if handle == self.HANDLE else self.INVALID

    def gemmex(
        self, handle, op_a, op_b, m, n, k, alpha, a, a_type, lda, b, b_type, ldb, beta, c, c_type,
        ldc, compute, algorithm,
    ):  # fmt: skip
        scalars = {(0, 68): ctypes.c_float, (0, 77): ctypes.c_float, (1, 70): ctypes.c_double}
        scalar = scalars.get((c_type, compute))
        current = self.cupy.cuda.get_current_stream().ptr
        least = (k if op_a else m, n if op_b else k, m)  # rows of a, b, c as they lie in memory
        if (
            handle != self.HANDLE or scalar is None or (a_type, b_type) != (c_type, c_type)
            or self.stream != current or self.workspace < 1 << 22 or algorithm != -1
            or any(ld < rows for ld, rows in zip((lda, ldb, ldc), least, strict=True))
            or scalar.from_address(alpha).value != 1 or scalar.from_address(beta).value != 0
        ):  # fmt: skip
            return self.INVALID

        def matrix(address, ld, rows, columns):  # columns first
            flat = (scalar * (ld * (columns - 1) + rows)).from_address(address)
            strides = (ctypes.sizeof(scalar), ld * ctypes.sizeof(scalar))
            return np.lib.stride_tricks.as_strided(np.frombuffer(flat, scalar), (rows, columns),
                                                   strides)  # fmt: skip

        left = matrix(a, lda, *((k, m) if op_a else (m, k)))
        right = matrix(b, ldb, *((n, k) if op_b else (k, n)))
        out = matrix(c, ldc, m, n)
        self.computed.append(compute)

        def work():
            out[...] = (left.T if op_a else left) @ (right.T if op_b else right)

        self.cupy.enqueue(work)
        return 0


class StandIn:
    """NumPy under CuPy's name: work is done at once, or while a stream is recorded, noted."""

    def __init__(self, library):
        self.library, self.noted, self.captured = library, [], None
        self.streams, self.blas = [Stream(self, 0)], Blas(self)
        self.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDevice=lambda: 0),
            get_current_stream=lambda: self.streams[-1],
            Stream=functools.partial(self.stream, 7),
            ExternalStream=self.external_stream,
            Device=lambda *_: types.SimpleNamespace(compute_capability="90", cublas_handle=0),
            is_available=lambda: True,
            cublas=types.SimpleNamespace(getVersion=lambda handle: 130000),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
        )

        self.cuda.Stream.from_external = lambda other: Stream(self, other.__cuda_stream__()[1])

    def stream(self, ptr, non_blocking):
        return Stream(self, ptr)

    def external_stream(self, ptr, device=-1):
        warnings.warn("ExternalStream is deprecated", DeprecationWarning, stacklevel=2)
        return Stream(self, ptr)

    def __getattr__(self, name):
        value = getattr(np, name)
        if isinstance(value, (type, np.ufunc)) or not callable(value):
            return value
        return functools.partial(self._on_the_device, value)

    @staticmethod
    def _on_the_device(function, *arguments, **options):
        result = function(*arguments, **options)
        return result.view(Pointed) if isinstance(result, np.ndarray) else result

    @staticmethod
    def asnumpy(values):
        """A copy on the host."""
        return values.get() if isinstance(values, Pointed) else np.array(values)

    @staticmethod
    def get_default_memory_pool():
        """A pool that keeps nothing."""
        return types.SimpleNamespace(free_all_blocks=lambda: None)

    @staticmethod
    def empty(shape, dtype=float):
        """Memory that nobody has written, poisoned."""
        array = np.empty(shape, dtype).view(Pointed)
        array.fill(np.nan if array.dtype.kind == "f" else 255)
        return array

    @staticmethod
    def ascontiguousarray(values, dtype=None):
        return np.ascontiguousarray(values, dtype=dtype).view(Pointed)

    def matmul(self, a, b, out=None):
        if self.captured is not None:
            raise NotImplementedError(
                "calling cuBLAS API during stream capture is currently unsupported"
            )
        for operand in (a, b, *(() if out is None else (out,))):
            if not (operand.flags.c_contiguous or operand.flags.f_contiguous):
                self.noted.append(("copied", operand.nbytes))  # to a contiguous temporary
        if out is not None and out.shape != (*a.shape[:-1], b.shape[-1]):
            raise ValueError("Output array has an invalid size")
        return np.matmul(a, b, out=out)

    def RawModule(self, code, options, name_expressions):
        self.noted.append(("compiled", tuple(name_expressions)))
        assert code == source.text()
        return types.SimpleNamespace(get_function=self.function)

    def function(self, name):
        if name.startswith("copy"):
            return self.copy
        run, double = instance(self.library, name), "double" in name

        def kernel(grid, block, arguments, shared_mem):
            shape, where, launch = arguments
            assert (shape.dtype, shape.shape) == (steps.SHAPE, (1,))
            assert isinstance(where, Pointed)
            assert where.nbytes == steps.RECORD.itemsize
            assert isinstance(launch, np.int64)
            assert block[0] <= support.MAX_THREADS
            assert shared_mem == 6 * (block[0] // support.WARP) * (8 if double else 4)
            by_value = shape.copy()
            self.enqueue(lambda: run(address(by_value), address(where), int(launch), 1, 1))

        return kernel

    def copy(self, grid, block, arguments):
        target, record, copies_ = arguments
        assert (grid, block) == ((1,), (1,))
        assert (record.dtype, record.shape, type(record)) == (steps.RECORD, (1,), np.ndarray)
        assert (copies_.dtype, copies_.shape, type(copies_)) == (copies.COPIES, (1,), np.ndarray)
        assert not copies_["copies"]["rows"].any()
        by_value = record.copy()
        self.enqueue(lambda: target.__setitem__(..., by_value.view(np.uint8)))

    def enqueue(self, work):
        work() if self.captured is None else self.captured.append(work)
