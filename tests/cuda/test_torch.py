"""torch's CUDA path, the kernels on the tensors' memory, computed by CuPy's stand-in."""

import types

import pytest
import torch

from gatecore.backends.cuda import launch
from gatecore.backends.torch.nn.layers import GRU, LSTM
from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.cupy_kernels import CuPyKernels, _CuPyAdapter
from tests.cuda.standin import StandIn, Stream


class Device:
    """The one GPU."""

    compute_capability, cublas_handle = "90", 0

    def __init__(self, number=0):
        assert number == 0

    __enter__ = __exit__ = lambda self, *_: None


@pytest.fixture
def gpu(host_library, monkeypatch):
    """CPU tensors pass for CUDA's, and the host's build of the kernels for CuPy's."""
    cupy = StandIn(host_library)
    null, made = Stream(cupy, 0), cupy.cuda.Stream
    cupy.cuda.Device = Device
    cupy.cuda.Stream = types.SimpleNamespace(null=null, __call__=made)
    launcher = launch.CudaLauncher(cupy)
    monkeypatch.setattr(launcher, "replay", lambda buffers, direction, body: body(cupy.matmul))
    monkeypatch.setattr(launch, "launcher", lambda: launcher)
    monkeypatch.setattr(CuPyKernels, "device", "cpu")
    monkeypatch.setattr(_CuPyAdapter, "device", "cpu")
    on_gpu = (dispatch.named("fused"), dispatch.named("plain"))
    monkeypatch.setattr(dispatch, "IMPLEMENTATIONS", on_gpu)
    launch.engine.cache_clear()
    yield cupy
    launch.engine.cache_clear()
    launch._compiled.cache_clear()


@pytest.mark.parametrize("mechanism", ["standard", "UR", "OM"])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_the_kernels_give_what_the_plain_path_gives(gpu, kind, mechanism):
    torch.manual_seed(0)
    layer = kind(3, 6, mechanism=mechanism, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    resets = torch.rand(5, 2) < 0.3
    trained = [x, *(p for p in layer.parameters() if p.requires_grad)]
    results = []
    for layer.impl in ("plain", "fused", "auto"):
        output, state = layer(x, resets=resets)
        last = state[1] if kind is LSTM else state
        loss = output.pow(2).sum() + last.sum()
        results.append([output, *torch.autograd.grad(loss, trained)])
        assert layer.last_impl == {"plain": "plain"}.get(layer.impl, "fused")
    for other in results[1:]:
        for got, wanted in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)
    assert any(kind == "compiled" for kind, _ in gpu.noted)


def test_what_the_kernels_do_not_serve_says_why(gpu, monkeypatch):
    def without_cupy():
        raise ImportError("CuPy is missing")

    monkeypatch.setattr(launch, "launcher", without_cupy)
    with pytest.raises(ValueError, match="impl='fused' can't be taken: CuPy is missing"):
        LSTM(3, 4, impl="fused")(torch.randn(5, 2, 3))
    layer = LSTM(3, 4)
    layer(torch.randn(5, 2, 3))
    assert layer.last_impl == "plain"
