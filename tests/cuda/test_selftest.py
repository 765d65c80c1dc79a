"""A device on which the kernels fail, in any way, is passed over, and the reason is kept."""

import sys

import numpy as np
import pytest

from gatecore import backends
from gatecore.backends.cuda import cublas, selftest
from gatecore.cells import LSTM
from tests.cuda.standin import Pointed, StandIn, forget
from tests.support import norm_error


@pytest.fixture
def cupy(host_library, monkeypatch):
    """A stand-in for CuPy in CuPy's place."""
    cupy = StandIn(host_library)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setattr(cublas, "library", lambda: cupy.blas)
    forget()
    yield cupy
    forget()


def problem(mechanism="OM"):
    """A layer whose kernels are not those of the self-test."""
    params = LSTM(3, 6, mechanism).init(0)
    params = {name: value.view(Pointed) for name, value in params.items()}
    return (
        params,
        np.random.default_rng(1).standard_normal((5, 2, 3)).view(Pointed),
        None,
        mechanism,
    )


def passed_over(cupy, word):
    """Whether `auto` runs array operations, `fused` raises the reason, and no test runs again."""
    backend = backends.load("cupy")
    wanted = backends.load("numpy").lstm(*problem())[0]
    for _ in range(2):
        output, _, pullback = backend.lstm(*problem())
        assert pullback.impl == "reference"
        assert norm_error(output, wanted) < 1e-12
        assert word in backend.why_not_fused("lstm", *problem()[:2], "OM")
        with pytest.raises(ValueError, match=rf"'fused' is not available: a test of them.*{word}"):
            backend.lstm(*problem(), kernels="fused")
    return cupy.noted.count("tested")


def failing(cupy, error):
    """A RawModule whose attempts are noted and fail."""

    def module(code, options, name_expressions):
        cupy.noted.append("tested")
        raise error

    return module


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to find CUDA headers"),
        RuntimeError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: NVRTC newer than the driver"),
    ],
)
def test_a_compiler_that_fails(cupy, error):
    cupy.RawModule = failing(cupy, error)
    assert passed_over(cupy, str(error)) == 1


def test_a_launch_that_fails(cupy):
    def function(name):
        def kernel(grid, block, arguments, shared_mem=0):
            cupy.noted.append("tested")
            raise RuntimeError("CUDA_ERROR_INVALID_VALUE")

        return kernel

    cupy.function = function
    assert passed_over(cupy, "when launched: RuntimeError: CUDA_ERROR_INVALID_VALUE") == 1


def test_wrong_numbers(cupy):
    own = cupy.function

    def function(name):
        kernel = own(name)

        def wrong(grid, block, arguments, shared_mem):
            if arguments[-1]:  # all steps but the first
                kernel(grid, block, arguments, shared_mem)

        return kernel if name.startswith("copy") else wrong

    cupy.function = function
    assert passed_over(cupy, "gave wrong numbers when launched: relative error") == 0


def test_a_graph_that_computes_something_else(cupy):
    stream = cupy.cuda.Stream

    class Forgetful(type(stream(non_blocking=True))):
        """A stream that does not record the last kernel."""

        def end_capture(self):
            self.cupy.captured.pop()
            return super().end_capture()

    cupy.cuda.Stream = lambda non_blocking: Forgetful(cupy, 7)
    assert passed_over(cupy, "gave wrong numbers when recorded") == 0


def test_a_graph_that_can_not_be_launched(cupy):
    class Refused(type(cupy.cuda.Stream(non_blocking=True))):
        def end_capture(self):
            graph = super().end_capture()
            graph.launch = lambda: np.linalg.inv(np.zeros((2, 2)))
            return graph

    cupy.cuda.Stream = lambda non_blocking: Refused(cupy, 7)
    assert passed_over(cupy, "failed when recorded: LinAlgError") == 0


def test_where_recording_fails_sequences_run_without_a_graph(cupy, caplog):
    def begin_capture(self):
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    Refusing = type("Refusing", (type(cupy.cuda.Stream(non_blocking=True)),),
                    {"begin_capture": begin_capture, "end_capture": begin_capture})  # fmt: skip
    cupy.cuda.Stream = lambda non_blocking: Refusing(cupy, 7)
    backend = backends.load("cupy")
    assert backend.lstm(*problem())[2].impl == "fused"
    assert ["StreamCaptureUnsupported" in record.message for record in caplog.records] == [True]
    assert "graph" not in cupy.noted


def test_a_device_that_works_is_tested_once_and_only_where_kernels_are_wanted(cupy):
    backend, names = backends.load("cupy"), []
    backend.lstm(*problem(), kernels="none")
    assert cupy.noted == []
    for _ in range(3):
        assert backend.lstm(*problem())[2].impl == "fused"
        names.append([entry[1] for entry in cupy.noted if entry[0] == "compiled"])
    assert names[0] == names[2]
    assert len(names[0]) == 2  # the test's kernels, and the layer's


def test_nan_is_a_wrong_number():
    def run(params, x, d_output):
        return [np.full_like(result, np.nan) for result in selftest._expected(0)]

    assert selftest.failure(run).endswith("wrong numbers when launched: relative error nan")
