"""Matrix products that a CUDA graph may record: cuBLAS with a handle of the library's own.

CuPy refuses its products while a stream is captured, because its handle's workspace may lie in a
pool; torch's have one precision for the whole process. Here the workspace and the precision belong
to the product, so a recorded graph may hold the workspace's address. Only the library that CuPy or
torch has loaded is used. Enumerators are those of cublas_api.h.
"""

import ctypes
import functools
import os
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any

_SONAMES = ("libcublas.so.13", "libcublas.so.12")
WORKSPACE = 32 << 20  # bytes of a product's workspace: cuBLAS's recommendation for Hopper
_N, _T, _DEFAULT_ALGORITHM = 0, 1, -1
_TYPES = {"float32": (0, ctypes.c_float), "float64": (1, ctypes.c_double)}
_COMPUTE = {"float32": 68, "float64": 70, "tf32": 77}
_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
_SIGNATURES = {
    "cublasCreate_v2": (_POINTER,),
    "cublasDestroy_v2": (_POINTER,),
    "cublasSetStream_v2": (_POINTER, _POINTER),
    "cublasSetWorkspace_v2": (_POINTER, _POINTER, ctypes.c_size_t),
    "cublasGemmEx": (_POINTER, *[_INT] * 5, _POINTER, *(_POINTER, _INT, _INT) * 2, _POINTER,
                     _POINTER, *[_INT] * 4),
}  # fmt: skip


def library() -> Any:
    """The cuBLAS that is loaded in this process; OSError if none is."""
    mode = getattr(os, "RTLD_NOLOAD", None)
    if mode is None:
        raise OSError("cuBLAS can be found by its soname on Linux alone")
    for soname in _SONAMES:
        try:
            return ctypes.CDLL(soname, mode=mode | os.RTLD_NOW)
        except OSError:
            continue
    raise OSError(f"none of {', '.join(_SONAMES)} is loaded")


class Matrix(NamedTuple):
    """A matrix in a GPU's memory, float32 or float64."""

    address: Any  # an integer, or a c_void_p whose value may change
    shape: tuple[int, int]
    strides: tuple[int, int]  # in elements
    dtype: str


class Product:
    """Products on the current device, one stream and one thread at a time.

    ``matrix`` describes an array as a :class:`Matrix`.
    """

    def __init__(self, matrix: Callable[[Array], Matrix]) -> None:
        self._library, self._handle = library(), ctypes.c_void_p()
        for name, types in _SIGNATURES.items():
            getattr(self._library, name).argtypes = types
        self._call("cublasCreate_v2", ctypes.byref(self._handle), handle=False)
        destroy = weakref.finalize(self, self._library.cublasDestroy_v2, self._handle)
        destroy.atexit = False  # the driver may be gone by then
        self._matrix, self._tf32 = matrix, False
        self._on: tuple[int, int] | None = None

    def on(self, stream: int, workspace: int, *, tf32: bool) -> "Product":
        """The same, on a stream with a workspace (an address), until this is called again.

        Products that share a workspace must not overlap. ``tf32`` lets those of float32 round their
        operands to TF32.
        """
        self._tf32 = tf32
        if self._on != (stream, workspace):
            self._on = None
            self._call("cublasSetStream_v2", stream)  # which resets the workspace
            self._call("cublasSetWorkspace_v2", workspace, WORKSPACE)
            self._on = stream, workspace
        return self

    def __call__(self, a: Array, b: Array, out: Array) -> Array:
        """``out`` = a @ b of matrices, of which a and b may be transposes."""
        self.prepare(*map(self._matrix, (a, b, out)))()
        return out

    def prepare(self, left: Matrix, right: Matrix, result: Matrix) -> Callable[[], None]:
        """A function that computes ``result`` = left @ right, with the present precision."""
        (rows, inner), columns = left.shape, right.shape[1]
        if right.shape[0] != inner or result.shape != (rows, columns):
            raise ValueError(f"out {result.shape} must be the shape of a {left.shape} @ b "
                             f"{right.shape}")  # fmt: skip
        # cuBLAS's matrices are columns first: to it, these are the transposes, and outᵀ = bᵀ aᵀ
        (b_order, *b_), (a_order, *a_), (order, *out_) = map(_operand, (right, left, result))
        if order != _N:
            raise ValueError(f"out must be contiguous, got strides {result.strides}")
        scalar = _TYPES[result.dtype][1]
        one, zero = (ctypes.byref(scalar(value)) for value in (1, 0))
        compute = _COMPUTE["tf32" if self._tf32 and result.dtype == "float32" else result.dtype]
        arguments = (b_order, a_order, columns, rows, inner, one, *b_, *a_, zero, *out_, compute,
                     _DEFAULT_ALGORITHM)  # fmt: skip
        types = _SIGNATURES["cublasGemmEx"][1:]  # converted once: it would take half of a call
        values = (t(a) if isinstance(a, int) else a for t, a in zip(types, arguments, strict=True))
        call = functools.partial(self._library.cublasGemmEx, self._handle, *values)

        def multiply() -> None:
            if status := call():
                _fail("cublasGemmEx", status)

        return multiply

    def _call(self, name: str, *arguments: Any, handle: bool = True) -> None:
        leading = (self._handle,) if handle else ()
        if status := getattr(self._library, name)(*leading, *arguments):
            _fail(name, status)


def _fail(name: str, status: int) -> None:
    raise RuntimeError(f"{name} returned the cuBLAS status {status}")


def _operand(matrix: Matrix) -> tuple[int, Any, int, int]:
    """(transposition, address, type, leading dimension) of a matrix; ValueError if it has none."""
    (rows, columns), (outer, inner) = matrix.shape, matrix.strides
    if inner == 1 or columns == 1:
        order, leading = _N, outer if rows > 1 else columns
    elif outer == 1 or rows == 1:
        order, leading = _T, inner if columns > 1 else rows
    else:
        raise ValueError(f"a product needs rows or columns in one piece, got {matrix.strides}")
    return order, matrix.address, _TYPES[matrix.dtype][0], leading
