"""The operators of a sequence: derivatives of any order, ownership of results, choice of one."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402

from gatecore import cells, mechanism  # noqa: E402
from gatecore.backends.common.signature import signature  # noqa: E402
from gatecore.backends.native import library  # noqa: E402
from gatecore.backends.torch import GRU, LSTM, lstm, release  # noqa: E402
from gatecore.backends.torch.sequence.custom_op import sequence  # noqa: E402

T, B, X, H = 4, 2, 3, 4


def arguments(core, name, return_cells=False, zoneout=(0.0, 0.0)):
    torch.manual_seed(1)
    chosen = mechanism(name)
    cell = cells.CELLS[core](X, H, chosen)
    p = {k: torch.tensor(v, requires_grad=True) for k, v in cell.init(0).items()}
    x, h, c = (
        torch.randn(*s, dtype=torch.float64, requires_grad=True)
        for s in [(T, B, X), (B, H), (B, H)]
    )
    resets = torch.rand(T, B) < 0.2
    return (
        signature(core, chosen), x, p["weight_ih"], p.get("weight_hh"), p["bias"], p.get("bias_n"),
        h, c if core == "lstm" else None, resets, None, None, *zoneout, return_cells,
        "reference", True,
    )  # fmt: skip


@pytest.mark.parametrize(("core", "name"), [("lstm", "UR"), ("gru", "OM"), ("minimal", "OR")])
def test_the_operator_passes_opcheck(core, name):
    torch.library.opcheck(sequence, arguments(core, name, core == "lstm"))


@pytest.mark.parametrize(
    ("core", "name"), [("lstm", "standard"), ("lstm", "OM"), ("gru", "UR"), ("minimal", "UM")]
)
def test_first_and_second_derivatives_equal_finite_differences(core, name):
    values = arguments(core, name, core == "lstm", (0.1, 0.2))
    places = [k for k, a in enumerate(values) if isinstance(a, torch.Tensor) and a.requires_grad]
    count = 4 if core == "lstm" else 2

    def function(*leaves):
        filled = list(values)
        for place, leaf in zip(places, leaves, strict=True):
            filled[place] = leaf
        return tuple(sequence(*filled)[:count])

    leaves = tuple(values[k] for k in places)
    assert gradcheck(function, leaves)
    assert gradgradcheck(function, leaves)


def test_third_derivatives_exist():
    layer, x = GRU(2, 3, dtype=torch.float64), torch.randn(3, 1, 2, dtype=torch.float64)
    x.requires_grad_()
    value = layer(x)[0].pow(2).sum()
    for _ in range(3):
        (gradient,) = torch.autograd.grad(value, x, create_graph=True)
        value = gradient.pow(2).sum()
    assert layer.last_impl == "reference"
    assert value.isfinite()


def test_results_are_not_overwritten_by_later_calls():
    layer, x = LSTM(3, 8), torch.randn(5, 2, 3)
    first, (h, c) = layer(x)
    copies = [t.detach().clone() for t in (first, h, c)]
    second, _ = layer(2 * x)
    second.sum().backward()
    layer(3 * x)
    assert all(torch.equal(t, copy) for t, copy in zip((first, h, c), copies, strict=True))
    before = layer.weight_hh_l0.grad.clone()
    first.sum().backward()
    assert not torch.equal(before, layer.weight_hh_l0.grad)
    release()


def test_several_forward_passes_may_precede_their_backward_passes():
    layer, x = LSTM(3, 8, dtype=torch.float64), torch.randn(2, 5, 2, 3, dtype=torch.float64)
    alone = [torch.autograd.grad(layer(part)[0].sum(), layer.weight_hh_l0)[0] for part in x]
    outputs = [layer(part)[0] for part in x]
    for output, expected in reversed(list(zip(outputs, alone, strict=True))):
        assert torch.equal(torch.autograd.grad(output.sum(), layer.weight_hh_l0)[0], expected)


def test_a_backward_pass_can_be_repeated():
    layer, x = LSTM(3, 8), torch.randn(5, 2, 3)
    output = layer(x)[0].sum()
    again = [torch.autograd.grad(output, layer.weight_hh_l0, retain_graph=True)[0] for _ in "12"]
    assert torch.equal(*again)


@pytest.mark.parametrize(
    ("impl", "dtype", "keywords", "message"),
    [
        ("graph", torch.float32, {}, "needs tensors on cuda"),
        ("fused", torch.float32, {}, "needs tensors on cuda"),
        ("reference", torch.float32, {"proj_size": 2}, "no projection"),
    ],
)
def test_an_unavailable_implementation_raises_value_error(impl, dtype, keywords, message):
    layer = LSTM(3, 4, impl=impl, dtype=dtype, **keywords)
    with pytest.raises(ValueError, match=message):
        layer(torch.randn(5, 2, 3, dtype=dtype))


@pytest.mark.skipif(not library.available(), reason="the native CPU library was not built")
@pytest.mark.parametrize(
    ("place", "name", "change"),
    [
        (1, "x", lambda x: x.double()),
        (2, "weight_ih", lambda w: w[:-1]),
        (3, "weight_hh", lambda w: w.double()),
        (4, "bias", lambda b: b[:, None]),
        (5, "bias_n", lambda b: b[:-1]),
        (6, "state", lambda h: h[:1]),
        (8, "resets", lambda r: r[1:]),
    ],
)
def test_the_native_operator_refuses_tensors_of_another_shape_or_dtype(place, name, change):
    """Called directly: no layer has checked its arguments."""
    values = [a.float() if getattr(a, "is_floating_point", bool)() else a
             for a in arguments("gru", "UR")]  # fmt: skip
    values[14] = "native"
    assert sequence(*values)[0].isfinite().all()
    values[place] = change(values[place])
    with pytest.raises(ValueError, match=f"^{name} must be torch"):
        sequence(*values)


def test_an_unknown_implementation_raises_in_the_constructor():
    with pytest.raises(ValueError, match="did you mean 'reference'"):
        LSTM(3, 4, impl="refrence")


def test_the_operators_implementations_do_not_support_torch_func():
    layer = LSTM(3, 4, impl="reference")
    with pytest.raises(ValueError, match=r"torch\.func is active"):
        torch.func.vmap(lambda x: layer(x)[0])(torch.randn(2, 5, 1, 3))


def test_implementations_agree(rng):
    params = {k: torch.tensor(v) for k, v in cells.LSTM(X, H).init(0).items()}
    x = torch.tensor(rng.standard_normal((T, B, X)))
    resets = torch.tensor(rng.random((T, B)) < 0.3)
    mask = torch.tensor((rng.random((T, B, H)) < 0.3).astype(float))
    reference, *others = (
        lstm(params, x, resets=resets, zoneout=(mask, 0.2), impl=impl)[0]
        for impl in ("reference", "plain", "scan")
    )
    for other in others:
        torch.testing.assert_close(reference, other, rtol=0, atol=1e-13)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_graphs_equal_stepping():
    layer = LSTM(3, 8, dtype=torch.float64, device="cuda")
    x = torch.randn(6, 2, 3, dtype=torch.float64, device="cuda")
    results = []
    for layer.impl in ("graph", "plain", "graph"):
        layer.zero_grad()
        output = layer(x)[0]
        output.pow(2).sum().backward()
        assert layer.last_impl == layer.impl
        results.append([output.detach(), layer.weight_hh_l0.grad.clone()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("mechanism", ["UR", "OM"])
def test_packed_products_of_large_layers_equal_stepping(mechanism):
    layer, x = LSTM(3, 384, mechanism=mechanism), torch.randn(4, 5, 3)
    results = []
    for layer.impl in ("reference", "plain"):
        output = layer(x)[0]
        results.append([output, *torch.autograd.grad(output.pow(2).sum(), layer.weight_hh_l0)])
    for reference, stepping in zip(*results, strict=True):
        torch.testing.assert_close(reference, stepping, rtol=1e-4, atol=1e-5)
