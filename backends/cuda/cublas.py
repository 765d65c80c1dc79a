"""Matrix products that a CUDA graph may record: cuBLAS with a handle of the library's own.

CuPy refuses its products while a stream is captured, because its handle's workspace may lie in a
pool. Here the workspace belongs to the product, so a recorded graph may hold its address. Only the
library that CuPy has loaded is used. Enumerators are those of cublas_api.h.
"""

import ctypes
import os
import weakref
from typing import Any

import numpy as np

Array = Any

_SONAMES = ("libcublas.so.13", "libcublas.so.12")
_WORKSPACE = 32 << 20  # bytes: cuBLAS's recommendation for Hopper
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


class Product:
    """Products on the current device, one stream at a time.

    Products that share a workspace must not overlap, so each stream needs one of these.
    """

    def __init__(self, xp: Any, tf32: bool = False) -> None:
        self._library, self._handle = library(), ctypes.c_void_p()
        for name, types in _SIGNATURES.items():
            getattr(self._library, name).argtypes = types
        self._call("cublasCreate_v2", ctypes.byref(self._handle), handle=False)
        destroy = weakref.finalize(self, self._library.cublasDestroy_v2, self._handle)
        destroy.atexit = False  # the driver may be gone by then
        self._workspace, self._tf32 = xp.empty(_WORKSPACE, dtype=np.uint8), tf32

    def on(self, stream: int) -> "Product":
        """The same, on a stream; its workspace must be set again, since a new stream resets it."""
        self._call("cublasSetStream_v2", stream)
        self._call("cublasSetWorkspace_v2", self._workspace.data.ptr, self._workspace.nbytes)
        return self

    def __call__(self, a: Array, b: Array, out: Array) -> Array:
        """``out`` = a @ b of matrices, float32 or float64; either may be a transpose."""
        (rows, inner), columns = a.shape, b.shape[1]
        if b.shape[0] != inner or out.shape != (rows, columns):
            raise ValueError(f"out {out.shape} must be the shape of a {a.shape} @ b {b.shape}")
        # cuBLAS's matrices are columns first: to it, these are the transposes, and outᵀ = bᵀ aᵀ
        (b_order, *b_), (a_order, *a_), (order, *out_) = map(_operand, (b, a, out))
        if order != _N:
            raise ValueError(f"out must be contiguous, got strides {out.strides}")
        dtype = str(out.dtype)
        one, zero = (ctypes.byref(_TYPES[dtype][1](value)) for value in (1, 0))
        compute = _COMPUTE["tf32" if self._tf32 and dtype == "float32" else dtype]
        self._call("cublasGemmEx", b_order, a_order, columns, rows, inner, one, *b_, *a_, zero,
                   *out_, compute, _DEFAULT_ALGORITHM)  # fmt: skip
        return out

    def _call(self, name: str, *arguments: Any, handle: bool = True) -> None:
        leading = (self._handle,) if handle else ()
        if status := getattr(self._library, name)(*leading, *arguments):
            raise RuntimeError(f"{name} returned the cuBLAS status {status}")


def _operand(array: Array) -> tuple[int, int, int, int]:
    """(transposition, address, type, leading dimension) of a matrix; ValueError if it has none."""
    outer, inner = (stride // array.itemsize for stride in array.strides)
    order, leading = (_N, outer) if inner == 1 else (_T, inner)
    if 1 not in (outer, inner):
        raise ValueError(f"a product needs rows or columns in one piece, got {array.strides}")
    return order, array.data.ptr, _TYPES[str(array.dtype)][0], leading
