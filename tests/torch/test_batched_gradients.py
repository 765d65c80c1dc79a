"""Batched cotangents: vectorised Jacobians and Hessians equal those taken row by row."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch.autograd.functional import hessian, jacobian  # noqa: E402

from gatecore import cells  # noqa: E402
from gatecore.backends import torch as ours  # noqa: E402
from gatecore.backends.native import library  # noqa: E402

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(3)


def close(actual, expected):
    tolerance = TOLERANCE[expected.dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


NATIVE = pytest.mark.skipif(not library.available(), reason="the native CPU library was not built")
LAYERS = pytest.mark.parametrize(
    ("kind", "impl", "dtype"),
    [
        pytest.param(kind, impl, dtype, marks=[NATIVE] if impl == "native" else [])
        for kind in ("LSTM", "GRU", "Minimal", "MinGRU")
        for impl in ("parallel" if kind == "MinGRU" else "reference", "plain", "native")
        for dtype in TOLERANCE
        if (impl, dtype) != ("native", torch.float64) and (kind, impl) != ("MinGRU", "native")
    ],
)


def by_input(kind, impl, dtype, **keywords):
    """The outputs of two layers in both directions as a function of the input."""
    layer = getattr(ours, kind)(
        2, 3, 2, bidirectional=True, mechanism="UR", impl=impl, dtype=dtype, **keywords
    )
    return lambda x: layer(x)[0]


def other_functions(dtype):
    """A cell, the layers as functions, and a gate unit, each of one tensor, and that tensor."""
    params = {k: torch.tensor(v, dtype=dtype) for k, v in cells.GRU(2, 4, "OM").init(0).items()}
    unit = ours.GateUnit(3, "OR", dtype=dtype)
    lstm_cell = ours.LSTMCell(2, 4, mechanism="UM", dtype=dtype)
    gru_cell = ours.GRUCell(2, 4, mechanism="R", dtype=dtype)
    x = torch.randn(3, 2, dtype=dtype)
    return {
        "LSTMCell": (lambda v: torch.cat(lstm_cell(v)), x),
        "GRUCell": (gru_cell, x),
        "gru": (lambda v: ours.gru(params, v, mechanism="OM")[0], torch.stack([x, -x])),
        "GateUnit": (lambda v: unit(v).value, torch.randn(2, unit.features, dtype=dtype)),
    }


@LAYERS
def test_jacobians_of_layers(kind, impl, dtype):
    function, x = by_input(kind, impl, dtype), torch.randn(3, 2, 2, dtype=dtype)
    expected = jacobian(function, x)
    close(jacobian(function, x, vectorize=True), expected)
    x.requires_grad_()
    output = function(x)
    rows = torch.eye(output.numel(), dtype=dtype).view(-1, *output.shape)

    def row(cotangent):
        return torch.autograd.grad(output, x, cotangent, retain_graph=True)[0]

    (batched,) = torch.autograd.grad(output, x, rows, is_grads_batched=True, retain_graph=True)
    for actual in (batched, torch.func.vmap(row)(rows)):
        close(actual.view(expected.shape), expected)
    if impl == "plain":  # the others are refused by name under torch.func
        close(torch.func.jacrev(function)(x), expected)


@LAYERS
def test_hessians_of_layers(kind, impl, dtype):
    function, x = by_input(kind, impl, dtype), torch.randn(3, 1, 2, dtype=dtype)

    def loss(x):
        return function(x).pow(2).sum()

    close(hessian(loss, x, vectorize=True), hessian(loss, x))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's, of itself
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "gru", "GateUnit"])
def test_derivatives_of_cells_functions_and_gate_units(name, dtype):
    function, x = other_functions(dtype)[name]
    expected = jacobian(function, x)
    close(jacobian(function, x, vectorize=True), expected)
    close(jacobian(function, x, vectorize=True, strategy="forward-mode"), expected)
    close(torch.func.jacrev(function)(x), expected)
    square = lambda v: function(v).pow(2).sum()  # noqa: E731
    close(hessian(square, x, vectorize=True), hessian(square, x))


@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's, of itself
def test_gradcheck_in_every_mode():
    layer = ours.LSTM(2, 3, mechanism="UR", dtype=torch.float64)
    names = [name for name, _ in layer.named_parameters()]

    def function(x, h, c, *params):
        named = dict(zip(names, params, strict=True))
        output, (h, c) = torch.func.functional_call(layer, named, (x, (h, c)))
        return output, h, c

    shapes = [(2, 1, 2), (1, 1, 3), (1, 1, 3)]
    inputs = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in shapes]
    inputs += [p.detach().clone().requires_grad_() for p in layer.parameters()]
    assert torch.autograd.gradcheck(
        function, inputs, check_batched_grad=True, check_forward_ad=True,
        check_batched_forward_grad=True,
    )  # fmt: skip
    assert torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True)


def test_batched_gradients_of_frozen_and_unused_parameters():
    """Gradients by a part of the parameters, from the last state alone."""
    layer = ours.GRU(2, 3)
    layer.weight_ih_l0.requires_grad_(False)
    _, h = layer(torch.randn(4, 2, 2))
    rows = torch.eye(h.numel()).view(-1, *h.shape)
    weight = layer.weight_hh_l0
    (batched,) = torch.autograd.grad(h, weight, rows, is_grads_batched=True, retain_graph=True)
    for row, gradient in zip(rows, batched, strict=True):
        close(gradient, torch.autograd.grad(h, weight, row, retain_graph=True)[0])


def test_a_differentiable_batched_gradient_has_a_derivative():
    layer, x = ours.LSTM(2, 3, dtype=torch.float64), torch.randn(3, 1, 2, dtype=torch.float64)
    x.requires_grad_()
    output = layer(x)[0]
    rows = torch.randn(4, *output.shape, dtype=torch.float64)

    def row(cotangent):
        return torch.autograd.grad(output, x, cotangent, create_graph=True)[0]

    batched = torch.func.vmap(row)(rows)
    alone = torch.stack([row(cotangent) for cotangent in rows])
    close(batched, alone)
    second = [
        torch.autograd.grad(g.pow(2).sum(), x, retain_graph=True)[0] for g in (batched, alone)
    ]
    close(*second)


def test_transformations_inside_a_compiled_function():
    layer, x = ours.GRU(2, 3), torch.randn(3, 2, 1, 2)

    def function(x, tangent):
        def one(v):
            return layer(v)[0]

        def gradient(v):
            return torch.func.grad(lambda w: one(w).pow(2).sum())(v)

        return (
            torch.func.vmap(one)(x),
            torch.func.vmap(gradient)(x),
            torch.func.jvp(one, (tangent,), (tangent,))[1],
            one(tangent),
        )

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    tangent = torch.randn(2, 1, 2)
    for actual, expected in zip(compiled(x, tangent), function(x, tangent), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("gates", ["standard", "UR", "OM"])
@pytest.mark.parametrize("kind", [ours.LSTM, ours.GRU, ours.Minimal, ours.MinGRU])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_batched_cotangents_reach_every_parameter(kind, gates, dtype):
    torch.manual_seed(0)
    layer = kind(3, 4, mechanism=gates, dtype=dtype)
    output, leaves = layer(torch.randn(4, 2, 3, dtype=dtype))[0], list(layer.parameters())
    cotangents = torch.randn(2, *output.shape, dtype=dtype)
    batched = torch.autograd.grad(
        output, leaves, cotangents, is_grads_batched=True, retain_graph=True
    )
    single = [torch.autograd.grad(output, leaves, d, retain_graph=True) for d in cotangents]
    expected = [torch.stack(parts) for parts in zip(*single, strict=True)]
    torch.testing.assert_close(list(batched), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gates", ["OM", "OR"])
def test_ordered_gates_have_a_batched_forward(gates):
    layer, xs = ours.LSTM(3, 4, mechanism=gates), torch.randn(3, 5, 2, 3)
    batched = torch.func.vmap(lambda x: layer(x)[0])(xs)
    torch.testing.assert_close(batched, torch.stack([layer(x)[0] for x in xs]))
