"""CUDA's driver API by ctypes: loading compiled kernels and launching them.

Works in the calling thread's current context, on memory and streams of whoever owns them. Types
are those of cuda.h.
"""

import ctypes
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

_UINT, _POINTER = ctypes.c_uint, ctypes.c_void_p
_SIGNATURES = {
    "cuInit": (_UINT,),
    "cuDriverGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuModuleLoadData": (ctypes.POINTER(_POINTER), _POINTER),
    "cuModuleGetFunction": (ctypes.POINTER(_POINTER), _POINTER, ctypes.c_char_p),
    # function, grid (x, y, z), block (x, y, z), shared bytes, stream, arguments, extra
    "cuLaunchKernel": (_POINTER, *[_UINT] * 7, _POINTER, ctypes.POINTER(_POINTER), _POINTER),
}


@functools.cache
def library() -> Any:
    """The driver's library; OSError if there is none."""
    return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")


class Driver:
    """The driver; RuntimeError, with CUDA's name of the error, where a call fails."""

    def __init__(self) -> None:
        self._library = library()
        for name, types in _SIGNATURES.items():
            getattr(self._library, name).argtypes = types
        self._call("cuInit", 0)

    def version(self) -> tuple[int, int]:
        """The newest version of CUDA that the driver supports."""
        number = ctypes.c_int()
        self._call("cuDriverGetVersion", number)
        return number.value // 1000, number.value % 1000 // 10

    def load(self, image: bytes, names: Sequence[str]) -> list[int]:
        """Functions by their names in a cubin or PTX, which stays loaded in the current context."""
        module, functions = _POINTER(), []
        self._call("cuModuleLoadData", module, image)
        for name in names:
            function = _POINTER()
            self._call("cuModuleGetFunction", function, module, name.encode())
            functions.append(function.value or 0)
        return functions

    def launcher(
        self, function: int, grid: tuple[int, int], threads: int, shared: int, stream: int,
        arguments: Sequence[Any],
    ) -> Callable[[], None]:  # fmt: skip
        """A function that launches the kernel on the stream.

        The arguments are ctypes objects, which are read at each launch. They stay alive as long as
        the function.
        """
        pointers = (_POINTER * len(arguments))(*map(ctypes.addressof, arguments))
        numbers = map(_UINT, (*grid, 1, threads, 1, 1, shared))  # converted once, not at each call
        call = functools.partial(self._library.cuLaunchKernel, _POINTER(function), *numbers,
                                 _POINTER(stream), pointers, None)  # fmt: skip

        def launch(_alive: Any = arguments) -> None:
            if status := call():
                self._fail("cuLaunchKernel", status)

        return launch

    def _call(self, name: str, *arguments: Any) -> None:
        if status := getattr(self._library, name)(*arguments):
            self._fail(name, status)

    def _fail(self, name: str, status: int) -> None:
        error = ctypes.c_char_p()
        self._library.cuGetErrorName(status, error)
        raise RuntimeError(f"{name}: {(error.value or b'error').decode()} ({status})")
