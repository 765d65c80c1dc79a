"""A GPU in the place of torch's: CPU tensors, and the libraries of CUDA by ctypes.

Kernels are the host's build. Each library has the signatures of its header, so that the calls by
ctypes are those that a GPU would see; what a GPU leaves undefined or refuses is an error here.
"""

import contextlib
import ctypes
import threading
import types

import numpy as np
from torch.utils._python_dispatch import TorchDispatchMode

from gatecore.backends.cuda import copies, nvrtc, source, steps, support
from tests.cuda.host import instance
from tests.cuda.standin import Blas

_POINTER, _UINT = ctypes.c_void_p, ctypes.c_uint
SIGNATURES = {
    "cuInit": (_UINT,),
    "cuDriverGetVersion": (ctypes.POINTER(ctypes.c_int),),
    "cuGetErrorName": (ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)),
    "cuModuleLoadData": (ctypes.POINTER(_POINTER), _POINTER),
    "cuModuleGetFunction": (ctypes.POINTER(_POINTER), _POINTER, ctypes.c_char_p),
    "cuLaunchKernel": (_POINTER, *[_UINT] * 7, _POINTER, ctypes.POINTER(_POINTER), _POINTER),
}
CAPTURE_STREAM = 99
INVALID_VALUE, INVALID_IMAGE = 1, 200


class NoTensorOperations(TorchDispatchMode):
    """Operations of torch would run at once, instead of when a graph is replayed."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        raise AssertionError(f"{function} while a graph is recorded")


class Gpu:
    """GPUs on which torch's tensors are, by index; ``fails`` names what shall go wrong.

    ``launched`` lists the kernels that were launched or replayed, ``compiled`` the requests.
    """

    def __init__(self, library):
        self.library, self.launched, self.compiled, self.fails = library, [], [], set()
        self.index, self.stream, self.tf32, self.capturing = None, 5, False, False
        self.captured, self.version = None, 13000
        self.recordings, self.replays, self.copies = 0, 0, 0
        self.functions, self.blas, self.lock = {}, Blas(self), threading.Lock()
        stream = types.SimpleNamespace
        self.cuda = stream(get_current_stream=lambda: stream(ptr=self.enqueued_on()))
        self._kept = []
        for name, types_ in SIGNATURES.items():
            function = ctypes.CFUNCTYPE(ctypes.c_int, *types_)(getattr(self, name.lower()))
            setattr(self, name, function)

    def enqueued_on(self):
        return self.stream if self.captured is None else CAPTURE_STREAM

    def enqueue(self, work):
        work() if self.captured is None else self.captured.append(work)

    def device(self, index):
        return Device(self, index)

    def compile(self, library, text, architecture, options=(), names=()):
        """A "cubin" of the instances' names."""
        assert (text, options, architecture) == (source.text(), source.OPTIONS, 90)
        self.compiled.append(tuple(names))
        if "compiler" in self.fails:
            raise ValueError("NVRTC: NVRTC_ERROR_COMPILATION: kernels.cu(1): error: expected a ;")
        mangled = [f"_Z{k}" for k in range(len(names))]
        return nvrtc.Program("\n".join(names).encode() + b"\0", mangled, "")

    # the driver

    def cuinit(self, flags):
        return flags

    def cudrivergetversion(self, version):
        version[0] = self.version
        return 0

    def cugeterrorname(self, status, name):
        names = {
            INVALID_VALUE: b"CUDA_ERROR_INVALID_VALUE",
            INVALID_IMAGE: b"CUDA_ERROR_INVALID_IMAGE",
        }
        name[0] = names[status]
        return 0

    def cumoduleloaddata(self, module, image):
        if "module" in self.fails or self.capturing or self.captured is not None:
            return INVALID_IMAGE
        self._kept.append(ctypes.string_at(image).decode().split("\n"))
        module[0] = len(self._kept)
        return 0

    def cumodulegetfunction(self, function, module, name):
        function[0] = len(self.functions) + 1000
        names = self._kept[module - 1]
        self.functions[function[0]] = self.index, names[int(name.removeprefix(b"_Z"))]
        return 0

    def culaunchkernel(self, function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        index, name = self.functions[function]
        if (
            "launch" in self.fails or index != self.index or (stream or 0) != self.enqueued_on()
            or (gz, by, bz) != (1, 1, 1) or extra or bx > support.MAX_THREADS
        ):  # fmt: skip
            return INVALID_VALUE
        double = "double" in name
        if name.startswith("copy"):
            table = _POINTER.from_address(parameters[0]).value
            record = ctypes.string_at(parameters[1], steps.RECORD.itemsize)
            self.copies += 1
            copies_ = ctypes.string_at(parameters[2], copies.COPIES.itemsize)
            if shared or not 1 <= gy <= copies.MOST:
                return INVALID_VALUE

            def copy():
                if table:
                    ctypes.memmove(table, record, len(record))
                self.library.run_copies(double, copies_, gy, gx * bx)

            self.enqueue(copy)
            return 0
        if shared != 6 * (bx // support.WARP) * (8 if double else 4):
            return INVALID_VALUE
        shape = ctypes.string_at(parameters[0], steps.SHAPE.itemsize)
        table = _POINTER.from_address(parameters[1]).value
        number = ctypes.c_longlong.from_address(parameters[2]).value
        batch, hidden = np.frombuffer(shape, steps.SHAPE)[["batch", "hidden"]][0]
        if gx != batch or (gy > 1 and gy * bx < hidden):
            return INVALID_VALUE
        run = instance(self.library, name)

        def work():
            self.launched.append((name, number))
            if "numbers" not in self.fails or number == 0:
                run(shape, table, number, 1, 1)

        self.enqueue(work)
        return 0


class Device:
    """The interface of ``cuda_device.CudaDevice``."""

    kind = "cpu"

    def __init__(self, gpu, index):
        self.gpu, self.index = gpu, index

    @contextlib.contextmanager
    def current(self):
        before, self.gpu.index = self.gpu.index, self.index
        try:
            yield
        finally:
            self.gpu.index = before

    def stream(self):
        return self.gpu.stream

    def capturing(self):
        return self.gpu.capturing

    def capability(self):
        return 90

    def cuda_version(self):
        return 13

    def tf32(self):
        return self.gpu.tf32

    def record(self, work):
        gpu = self.gpu
        assert gpu.captured is None
        assert not gpu.capturing
        assert gpu.index == self.index
        if "record" in gpu.fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")
        gpu.captured, gpu.recordings = [], gpu.recordings + 1
        try:
            with NoTensorOperations():
                work(CAPTURE_STREAM)
        finally:
            captured, gpu.captured = gpu.captured, None

        def replay():
            assert gpu.index == self.index
            gpu.replays += 1
            for one in captured:
                one()

        return replay
