"""The loaded C++ library, its instruction sets and its threads."""

import ctypes
import functools
import os
import platform
import re
from pathlib import Path
from typing import Any

_ARM = platform.machine() in ("aarch64", "arm64")
INSTRUCTION_SETS: tuple[str, ...] = ("portable", "neon") if _ARM else ("portable", "avx2", "avx512")
_VERSION = 7  # of interface.h
_pointer = ctypes.c_void_p


def unsupported(dtype: str = "float32") -> str | None:
    """Why the library cannot compute in this dtype here; None if it can.

    >>> unsupported("float64")
    'it computes in float32, not float64'
    """
    if dtype != "float32":
        return f"it computes in float32, not {dtype}"
    return _loaded()[1]


def available() -> bool:
    """Whether the library can be used here."""
    return unsupported() is None


def library() -> Any:
    """The loaded library; RuntimeError if it is missing."""
    loaded, reason = _loaded()
    if loaded is None:
        raise RuntimeError(f"gatecore's native CPU library cannot be used: {reason}")
    return loaded


@functools.cache
def best_instruction_set() -> str:
    """The widest instruction set that both this processor and the library have."""
    return INSTRUCTION_SETS[library().gatecore_best_instruction_set()]


@functools.cache
def instruction_set() -> str:
    """The instruction set in use: the processor's widest, or GATECORE_MAX_ISA if that is narrower.

    The environment variable is read once, at the first call. ValueError if it names none of
    ``INSTRUCTION_SETS``.
    """
    limit = os.environ.get("GATECORE_MAX_ISA") or INSTRUCTION_SETS[-1]
    if limit not in INSTRUCTION_SETS:
        raise ValueError(f"GATECORE_MAX_ISA={limit!r} is not one of {', '.join(INSTRUCTION_SETS)}")
    return min(limit, best_instruction_set(), key=INSTRUCTION_SETS.index)


@functools.cache
def _loaded() -> tuple[Any, str | None]:
    folder = Path(__file__).parent
    files = sorted(p for suffix in ("so", "dylib") for p in folder.glob(f"_native.{suffix}"))
    if not files and os.name == "nt":
        return None, "it is not ported to Windows"
    if not files:
        return None, "it was not built (no C++ compiler when gatecore was installed?)"
    try:
        loaded = ctypes.CDLL(str(files[-1]))
        version = loaded.gatecore_version()
    except (OSError, AttributeError) as error:
        return None, f"{files[-1].name} cannot be loaded: {error}"
    if version != _VERSION:
        return None, f"{files[-1].name} is of another version of gatecore; install it again"
    for name in ("gatecore_stride", "gatecore_forward_scratch", "gatecore_backward_scratch"):
        function = getattr(loaded, name)
        function.argtypes, function.restype = [_pointer], ctypes.c_size_t
    loaded.gatecore_backward_scratch.argtypes = [_pointer, ctypes.c_int32]
    loaded.gatecore_multiply_adds.argtypes = [ctypes.c_int32, ctypes.c_int64]
    loaded.gatecore_multiply_adds.restype = ctypes.c_double
    loaded.gatecore_use_openmp.argtypes = [_pointer, _pointer]
    return loaded, None


def use_openmp_of(pattern: str) -> bool:
    """Run on the threads of a loaded OpenMP whose path matches; whether there is one.

    Two pools of threads that wait by spinning would take the cores from each other.
    """
    if not available():
        return False
    for path in _mapped(pattern):
        try:
            host = ctypes.CDLL(path)
            parallel, count = (ctypes.cast(getattr(host, name), _pointer).value
                               for name in ("GOMP_parallel", "omp_get_num_threads"))  # fmt: skip
        except (OSError, AttributeError):
            continue
        library().gatecore_use_openmp(parallel, count)
        return True
    return False


def default_threads() -> int:
    """The present number of threads of NumPy's BLAS, which threadpoolctl and users set."""
    get = _blas_threads()
    return max(1, get()) if get is not None else cores()


def cores() -> int:
    """OMP_NUM_THREADS if it is set, else the number of cores that this process may use."""
    set_by_user = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if set_by_user.isdecimal() and int(set_by_user) > 0:
        return int(set_by_user)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache
def _blas_threads() -> Any:
    for path in _mapped(r"openblas"):
        host = ctypes.CDLL(path)
        for name in ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads",
                     "openblas_get_num_threads64_", "openblas_get_num_threads"):  # fmt: skip
            if hasattr(host, name):
                return getattr(host, name)
    return None


def _mapped(pattern: str) -> list[str]:
    """Paths of the shared libraries that the process has loaded, on Linux."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    paths = {line.split(maxsplit=5)[-1] for line in lines if "/" in line}
    return sorted(p for p in paths if ".so" in p and re.search(pattern, p))
