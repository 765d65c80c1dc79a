"""The host build of the kernels, once a session, and torch on a stand-in for a GPU."""

import pytest

from gatecore.backends.cuda import cublas, driver, nvrtc
from tests.cuda import host


@pytest.fixture(scope="session")
def host_library(tmp_path_factory):
    """The kernels as a shared library of the host."""
    if host.LACKING:
        pytest.skip(host.LACKING)
    return host.library(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def gpu(host_library, monkeypatch):
    """CPU tensors pass for CUDA's, and fresh memory is NaN."""
    import torch  # the other tests need none

    from gatecore.backends.torch.sequence import cuda_kernels, dispatch
    from tests.cuda.gpu import Gpu

    gpu = Gpu(host_library)
    for module, library in ((driver, gpu), (cublas, gpu.blas)):
        monkeypatch.setattr(module, "library", lambda library=library: library)
    monkeypatch.setattr(nvrtc, "library", lambda version=None: gpu)
    monkeypatch.setattr(nvrtc, "compile", gpu.compile)
    monkeypatch.setattr(nvrtc, "version", lambda library: (13, 5))
    monkeypatch.setattr(cuda_kernels.CudaKernels, "device", "cpu")
    monkeypatch.setattr(cuda_kernels, "ENGINES", cuda_kernels.Engines(gpu.device))
    on_gpu = (dispatch.named("fused"), dispatch.named("plain"))
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", on_gpu)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield gpu
    torch.use_deterministic_algorithms(before)
