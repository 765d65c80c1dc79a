"""The kernels compiled by the host's C++ compiler, and a launcher that runs them on NumPy."""

import ctypes
import functools
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np

import gatecore.backends.cuda
from gatecore.backends.cuda import source
from gatecore.backends.cuda.steps import GraphBuffers

HERE = Path(__file__).parent
SOURCES = Path(gatecore.backends.cuda.__file__).parent / "src"
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
LACKING = None
if COMPILER is None:
    LACKING = "no C++ compiler: set CXX, or install g++"
elif sys.platform == "win32":
    LACKING = "the host build of the kernels is for compilers with g++'s options"


@functools.cache
def library(folder):
    """The shared library, built in ``folder``."""
    target = Path(folder) / "kernels.so"
    flags = ["-std=c++17", "-O0", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror"]
    flags += ["-ffp-contract=off"]
    command = [COMPILER, *flags, f"-I{SOURCES}", str(HERE / "host.cpp"), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    built = ctypes.CDLL(str(target))
    step = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_longlong, ctypes.c_int, ctypes.c_int]
    built.run_step.argtypes = [ctypes.c_int] * 5 + step
    built.run_copies.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
    built.refine_row.argtypes = [ctypes.c_longlong] + [ctypes.c_void_p] * 4
    built.master_row.argtypes = [ctypes.c_longlong] + [ctypes.c_void_p] * 4
    built.cumax_row.argtypes = [ctypes.c_int] * 5 + [ctypes.c_void_p] * 3
    built.newton_row.argtypes = [ctypes.c_longlong] + [ctypes.c_void_p] * 3
    return built


def address(array):
    """An array's memory, as ctypes takes it."""
    return ctypes.c_void_p(array.ctypes.data)


def instance(library, name):
    """A function (shape, sequence, launch, threads, lanes) that runs a kernel by its name."""
    direction, arguments = name.rstrip(">").split("<")
    scalar, *fields = arguments.split(", ")
    enums = (["lstm", "gru", "minimal"], ["by_sigmoid", "by_cumax"],
             ["none", "refined", "mastered", "untied"])  # fmt: skip
    numbers = [e.index(f.split("::")[1]) for e, f in zip(enums, fields, strict=True)]
    which = source.DIRECTIONS.index(direction)
    return functools.partial(library.run_step, int(scalar == "double"), *numbers, which)


class HostLauncher:
    """Runs the kernels as C++ functions; `threads` of a block, so that barriers are exercised.

    What a GPU leaves undefined is poisoned: graph buffers start as NaN.
    """

    xp = np

    def __init__(self, library, threads=1, lanes=1):
        self.library, self.threads, self.lanes = library, threads, lanes
        self.lock, self.graph_buffers, self.replayed = threading.RLock(), {}, []

    @staticmethod
    def pointer(array):
        return array.ctypes.data

    @staticmethod
    def upload(record, buffers):
        buffers.arguments[...] = record.view(np.uint8)

    def kernels(self, buffers):
        names = source.names(buffers.layout, buffers.dtype)[:2]
        return [functools.partial(self._launch, instance(self.library, name)) for name in names]

    def _launch(self, kernel, buffers, launch):
        kernel(address(buffers.shape), address(buffers.arguments), launch, self.threads, self.lanes)

    def buffers(self, layout, steps, dtype):
        key = (layout.cell, steps, str(dtype))
        if key not in self.graph_buffers:
            created = self.graph_buffers[key] = GraphBuffers(self, layout, steps, dtype)
            for array in (*created.arrays.values(), created.weights):
                array.fill(np.nan)
        return self.graph_buffers[key]

    def replay(self, buffers, direction, body):
        """As on a GPU: the first body of a shape and direction is what later calls repeat."""
        self.replayed.append(direction)
        buffers.graphs.setdefault(direction, body)(np.matmul)
