"""NVRTC, CUDA's run-time compiler, by ctypes. It compiles without a GPU and without a driver."""

import ctypes
import functools
import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

VERSIONS = (13, 12)  # of CUDA, newest first
_NAMES = ("libnvrtc.so.{}", "nvrtc64_{}0_0.dll")
# a toolkit's library is loaded already or in the system's path; wheels have a folder of their own
_PACKAGES = {"nvidia": ("*/lib", "*/bin", "*/bin/x86_64"), "torch": ("lib",)}


class Program(NamedTuple):
    """A compiled program."""

    image: bytes  # a cubin, or PTX
    names: list[str]  # mangled, of the requested instances
    log: str


@functools.cache
def library(version: int | None = None) -> Any:
    """The library of a version of CUDA, by default the newest; None where there is none."""
    for candidate in _candidates([version] if version else VERSIONS):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    return None


def version(library: Any) -> tuple[int, int]:
    """The library's version of CUDA."""
    numbers = ctypes.c_int(), ctypes.c_int()
    _check(library, library.nvrtcVersion(*map(ctypes.byref, numbers)))
    return numbers[0].value, numbers[1].value


def compile(
    library: Any, text: str, architecture: int, options: Sequence[str] = (),
    names: Sequence[str] = (),
) -> Program:  # fmt: skip
    """A program for one architecture (90 for sm_90), with these instances of its templates.

    It is a cubin, or PTX where the compiler does not know the architecture yet. ValueError with
    the compiler's log if the program has an error.
    """
    program = ctypes.c_void_p()
    known = _architectures(library)
    newest = max((one for one in known if one <= architecture), default=architecture)
    kind = "sm" if newest == architecture else "compute"
    flags = [f"-arch={kind}_{newest}", *options]
    _check(library, library.nvrtcCreateProgram(
        ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None
    ))  # fmt: skip
    try:
        for name in names:
            _check(library, library.nvrtcAddNameExpression(program, name.encode()))
        array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        status = library.nvrtcCompileProgram(program, len(flags), array)
        log = _output(library, program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            raise ValueError(f"NVRTC: {_error(library, status)}: {log}")
        image = _output(library, program, "CUBIN" if kind == "sm" else "PTX")
        return Program(image, [_mangled(library, program, name) for name in names], log)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _candidates(versions: Sequence[int]) -> Iterator[str]:
    names = [name.format(number) for number in versions for name in _NAMES]
    yield from names
    for package, folders in _PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for location in (spec and spec.submodule_search_locations) or ():
            for name in names:
                for folder in folders:
                    yield from map(str, sorted(Path(location).glob(f"{folder}/{name}")))


def _architectures(library: Any) -> list[int]:
    count = ctypes.c_int()
    _check(library, library.nvrtcGetNumSupportedArchs(ctypes.byref(count)))
    architectures = (ctypes.c_int * count.value)()
    _check(library, library.nvrtcGetSupportedArchs(architectures))
    return list(architectures)


def _mangled(library: Any, program: ctypes.c_void_p, name: str) -> str:
    mangled = ctypes.c_char_p()
    _check(library, library.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(mangled)))
    return (mangled.value or b"").decode()


def _output(library: Any, program: ctypes.c_void_p, what: str) -> bytes:
    size = ctypes.c_size_t()
    _check(library, getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(library, getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw


def _check(library: Any, status: int) -> None:
    if status:
        raise RuntimeError(f"NVRTC: {_error(library, status)}")


def _error(library: Any, status: int) -> str:
    library.nvrtcGetErrorString.restype = ctypes.c_char_p
    return str((library.nvrtcGetErrorString(status) or b"").decode())
