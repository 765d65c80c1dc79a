"""Host time of a layer on CUDA, with every call of a CUDA library stubbed: no GPU is needed.

    python benchmarks/cuda_host.py [--calls 2000]

Prints microseconds a call: what Python and torch do on the host around the calls of the driver and
of cuBLAS, which return at once. torch's operations run on CPU tensors of a few numbers. The
sequence has been recorded, so that its steps are one launch.
"""

import argparse
import contextlib
import ctypes
import statistics
import time

import torch

from gatecore.backends.cuda import cublas, driver
from gatecore.backends.torch.sequence import cuda_engine, cuda_kernels
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.cuda_device import CudaDevice
from gatecore.cells import GRU, LSTM, Minimal

TIME, BATCH, INPUT, HIDDEN = 2, 1, 3, 4
CALLS = 2000


class Stub:
    """A library whose functions return 0: each is C's comparison of two numbers, which differ."""

    def __getattr__(self, name):
        function = ctypes.CDLL(None)["pthread_equal"]
        setattr(self, name, function)
        return function

    @staticmethod
    def cuInit(flags):
        return 0


class Device:
    """A CPU in the place of a GPU; its graphs do nothing."""

    kind, index = "cpu", 0

    def current(self):
        return contextlib.nullcontext()

    def stream(self):
        return 5

    def capturing(self):
        return False

    def capability(self):
        return 90

    def cuda_version(self):
        return 13

    def tf32(self):
        return CudaDevice.tf32(self)

    def record(self, work):
        return lambda: None


class Loader:
    """Kernels that are loaded."""

    def __init__(self, *_):
        self.driver = driver.Driver()

    def loaded(self, names):
        return True

    def functions(self, names):
        return [1001, 1002, 1003]


def stubbed():
    """An implementation whose libraries are stubs."""
    driver.library = cublas.library = Stub
    cuda_engine.Loader = Loader
    engines = cuda_kernels.ENGINES = cuda_kernels.Engines(lambda index: Device())
    engine = engines._engines[0] = cuda_engine.Engine(Device())
    engine.product._handle.value = 4711  # unlike any argument that follows it
    return cuda_kernels.CudaKernels()


def microseconds(function, calls):
    """The time of a call: the smallest median of ten blocks, for a machine that others use too."""
    medians = []
    for _ in range(10):
        times = []
        for _ in range(calls // 10):
            start = time.perf_counter()
            function()
            times.append(time.perf_counter() - start)
        medians.append(statistics.median(times))
    return 1e6 * min(medians)


def measured(kind, calls=CALLS):
    """{what: microseconds a call} of a layer, with a gradient of its input in the backward pass."""
    implementation, cell = stubbed(), kind(INPUT, HIDDEN, "UR")
    params = {n: torch.tensor(p, dtype=torch.float32) for n, p in cell.init(0).items()}
    params["bias_hh"] = torch.zeros(cell.rows)  # torch's layers have two
    call = Call(cell, torch.randn(TIME, BATCH, INPUT), params)
    saved = implementation.forward(call, True)[call.num_results :]
    d, last = [torch.randn(TIME, BATCH, HIDDEN)], [None] * len(cell.state_names)
    passes = {
        "forward": lambda: implementation.forward(call, True),
        "forward, without a gradient": lambda: implementation.forward(call, False),
        "backward": lambda: implementation.backward(call, saved, d, last, True),
    }
    with torch.no_grad():
        return {what: microseconds(function, calls) for what, function in passes.items()}


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=CALLS)
    options = parser.parse_args()
    for kind in (LSTM, GRU, Minimal):
        for what, value in measured(kind, options.calls).items():
            print(f"{kind.__name__}, {what}: {value:.0f} us")


if __name__ == "__main__":
    main()
