"""NVRTC, the run-time compiler for CUDA, by ctypes: it needs no GPU and no driver."""

import ctypes
import functools
import importlib.util
from pathlib import Path

NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "nvrtc64_130_0.dll", "nvrtc64_120_0.dll")


def _candidates():
    """Where a wheel (nvidia-cuda-nvrtc) or a toolkit may have put the library."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for name in NAMES:
            yield from sorted(Path(folder).glob(f"*/*/{name}"))
    yield from NAMES


@functools.cache
def library():
    """The library, or None where there is none."""
    for candidate in _candidates():
        try:
            return ctypes.CDLL(str(candidate))
        except OSError:
            continue
    return None


def compile(text, architecture, options=(), names=()):
    """(cubin, log) of a program for one architecture (90 for sm_90), with these instances.

    Raises
    ------
    ValueError
        With the compiler's log.
    """
    nvrtc, program = library(), ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    try:
        for name in names:
            assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
        flags = [f"-arch=sm_{architecture}", *options]
        array = (ctypes.c_char_p * len(flags))(*(flag.encode() for flag in flags))
        status = nvrtc.nvrtcCompileProgram(program, len(flags), array)
        log = _output(program, "ProgramLog").rstrip(b"\0").decode()
        if status:
            raise ValueError(f"NVRTC {status}: {log}")
        return _output(program, "CUBIN"), log
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def _output(program, what):
    size = ctypes.c_size_t()
    assert getattr(library(), f"nvrtcGet{what}Size")(program, ctypes.byref(size)) == 0
    buffer = ctypes.create_string_buffer(size.value)
    assert getattr(library(), f"nvrtcGet{what}")(program, buffer) == 0
    return buffer.raw
