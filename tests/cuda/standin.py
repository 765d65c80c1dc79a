"""A stand-in for CuPy with NumPy's arrays, whose kernels are the host's build.

It notes what is asked of RawModule, streams and graphs. Whether a GPU then does the right thing is
for `make gpu`.
"""

import functools
import types

import numpy as np

from gatecore.backends.cuda import source, steps, support
from tests.cuda.host import address


class Pointed(np.ndarray):
    """A NumPy array with CuPy's ways to its memory."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)

    def set(self, values):
        self[...] = values


class Stream:
    """A stream that notes what is recorded on it."""

    def __init__(self, cupy, ptr=7):
        self.cupy, self.ptr = cupy, ptr

    def __enter__(self):
        self.cupy.streams.append(self)

    def __exit__(self, *_):
        self.cupy.streams.pop()

    def begin_capture(self):
        self.cupy.captured = []

    def end_capture(self):
        captured, self.cupy.captured = self.cupy.captured, None

        def launch():
            self.cupy.noted.append("graph")
            for work in captured:
                work()

        return types.SimpleNamespace(launch=launch)


class StandIn:
    """NumPy under CuPy's name: work is done at once, or while a stream is recorded, noted."""

    def __init__(self, library):
        self.library, self.noted, self.captured = library, [], None
        self.streams = [Stream(self, 0)]
        self.cuda = types.SimpleNamespace(
            runtime=types.SimpleNamespace(getDevice=lambda: 0),
            get_current_stream=lambda: self.streams[-1],
            Stream=lambda non_blocking: Stream(self),
            Device=lambda *_: types.SimpleNamespace(compute_capability="90", cublas_handle=0),
            is_available=lambda: True,
            cublas=types.SimpleNamespace(getVersion=lambda handle: 130000),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
        )

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
        return np.array(values)

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
            self.captured.append(lambda: np.matmul(a, b, out=out))
            return out
        return np.matmul(a, b, out=out)

    def RawModule(self, code, options, name_expressions):
        self.noted.append(("compiled", tuple(name_expressions)))
        assert code == source.text()
        return types.SimpleNamespace(get_function=self.function)

    def function(self, name):
        direction, arguments = name.rstrip(">").split("<")
        scalar, *fields = arguments.split(", ")
        enums = (["lstm", "gru", "minimal"], ["by_sigmoid", "by_cumax"],
                 ["none", "refined", "mastered", "untied"])  # fmt: skip
        numbers = [e.index(f.split("::")[1]) for e, f in zip(enums, fields, strict=True)]
        which = source.DIRECTIONS.index(direction)

        def kernel(grid, block, arguments, shared_mem):
            where, t = arguments
            assert where.dtype == np.uint8
            assert where.nbytes == steps.RECORD.itemsize
            assert isinstance(t, np.int64)
            assert block[0] <= support.MAX_THREADS
            assert shared_mem == 2 * block[0] * (8 if scalar == "double" else 4)
            double = int(scalar == "double")

            def work():
                self.library.run_step(double, *numbers, which, address(where), int(t), 1)

            work() if self.captured is None else self.captured.append(work)

        return kernel
