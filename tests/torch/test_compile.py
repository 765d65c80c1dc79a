"""torch.compile, torch.export with time and batch left open, ONNX."""

import importlib.util

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore.backends.native import library  # noqa: E402
from gatecore.backends.torch import GRU, LSTM, LSTMCell, MinGRU  # noqa: E402

# torch's own tracing reads .grad of a tensor inside scan, and says so to itself
NOISE = (
    "ignore:The .grad attribute of a Tensor:UserWarning",
    "ignore:.torch.jit:DeprecationWarning",
)
ITS_OWN = pytest.mark.filterwarnings(*NOISE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: LSTM(3, 4, 2, bidirectional=True, zoneout=0.0),
        lambda: GRU(3, 4, mechanism="OM"),
        lambda: MinGRU(3, 4, 2, bidirectional=True),
    ],
)
def test_compiled_whole(make):
    layer, x = make(), torch.randn(5, 2, 3, requires_grad=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for size in (5, 7):
        x = torch.randn(size, 2, 3, requires_grad=True)
        (mine,) = torch.autograd.grad(compiled(x)[0].pow(2).sum(), x)
        (its,) = torch.autograd.grad(layer(x)[0].pow(2).sum(), x)
        torch.testing.assert_close(mine, its)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("missing", [None, "it was not built"])
def test_compiled_with_the_implementation_that_supports_it(dtype, missing, monkeypatch):
    torch.compiler.reset()  # whether the library is there is a constant of compiled code
    if missing:
        monkeypatch.setattr(library, "unsupported", lambda dtype: missing)
    layer, x = LSTM(3, 4, dtype=dtype), torch.randn(5, 2, 3, dtype=dtype)
    output = layer(x)[0]
    impl = layer.last_impl
    torch.testing.assert_close(
        torch.compile(layer, fullgraph=True, backend="aot_eager")(x)[0], output
    )
    assert layer.last_impl == impl
    assert impl == ("native" if dtype == torch.float32 and not missing else "reference")


def test_a_compiled_cell():
    cell, x = LSTMCell(3, 4), torch.randn(2, 3)
    compiled = torch.compile(cell, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), cell(x))


def opened(layer):
    """The layer exported with time and batch left open."""
    open_sizes = dict(enumerate(torch.export.Dim(name, min=2) for name in ("first", "second")))
    return torch.export.export(layer.eval(), (torch.randn(5, 2, 3),), dynamic_shapes=(open_sizes,))


@ITS_OWN
@pytest.mark.parametrize("make", [lambda: LSTM(3, 4, 2, zoneout=0.1), lambda: GRU(3, 4),
                                  lambda: MinGRU(3, 4, 2, zoneout=0.1)])  # fmt: skip
def test_exported_for_any_time_and_batch(make):
    layer, x = make(), torch.randn(9, 4, 3)
    exported = opened(layer)
    assert "higher_order.scan" in str(exported.graph)
    output, last = exported.module()(x)
    expected, its_last = layer(x)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(last, its_last)


@ITS_OWN
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.skipif(
    not all(importlib.util.find_spec(n) for n in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
@pytest.mark.parametrize(("kind", "batch_first"), [(LSTM, False), (LSTM, True), (MinGRU, False)])
def test_onnx_runs_another_length(tmp_path, kind, batch_first):
    import onnxruntime

    layer, x = kind(3, 4, batch_first=batch_first), torch.randn(9, 4, 3)
    path = tmp_path / "layer.onnx"
    torch.onnx.export(opened(layer), dynamo=True, verbose=False).save(path)
    session = onnxruntime.InferenceSession(path)
    output, *_ = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    torch.testing.assert_close(torch.tensor(output), layer(x)[0], rtol=1e-5, atol=1e-6)
