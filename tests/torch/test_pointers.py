"""Tensors whose memory does not hold their values: negated and zero lazily, freed, too short."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.nn.utils.rnn import pack_padded_sequence  # noqa: E402

from gatecore.backends import torch as adapter  # noqa: E402
from gatecore.backends.native import library  # noqa: E402
from gatecore.cells import LSTM, MinGRU  # noqa: E402

T, B, X, H = 5, 2, 3, 4
LAZY = {
    "negated": torch._neg_view,
    "conjugate": lambda t: torch.imag(torch.conj(torch.complex(t, t))),
    "zeros": lambda t: torch._efficientzerotensor(t.shape, dtype=t.dtype),
    "expanded": lambda t: t[..., :1].expand(t.shape),
}
IMPLS = ("native", "reference", "plain", "float64")


def case(impl):
    if impl == "native" and not library.available():
        pytest.skip(str(library.unsupported()))
    dtype = torch.float64 if impl == "float64" else torch.float32
    torch.manual_seed(0)
    params = {k: torch.tensor(v, dtype=dtype) for k, v in LSTM(X, H).init(rng=0).items()}
    x, h, c = (torch.randn(s, dtype=dtype) for s in ((T, B, X), (B, H), (B, H)))
    tensors = {**params, "x": x, "h": h, "c": c, "d_output": torch.randn(T, B, H, dtype=dtype)}
    return tensors, "auto" if impl == "float64" else impl


def results(tensors, impl):
    """Outputs, last states, and the gradients of all arguments."""
    tensors = dict(tensors)
    d_output = tensors.pop("d_output")
    leaves = [t.detach().requires_grad_() for t in tensors.values()]
    named = dict(zip(tensors, leaves, strict=True))
    x, h, c = (named.pop(name) for name in ("x", "h", "c"))
    output, state = adapter.lstm(named, x, (h, c), impl=impl)
    gradients = torch.autograd.grad(output, leaves, d_output)
    with torch.no_grad():
        detached = adapter.lstm(named, x, (h, c), impl=impl)[0]
    return [output, *state, detached, *gradients]


@pytest.mark.parametrize("name", ["x", "weight_ih", "weight_hh", "bias", "h", "c", "d_output"])
@pytest.mark.parametrize("lazy", LAZY)
@pytest.mark.parametrize("impl", IMPLS)
def test_values_are_those_of_a_copy(impl, lazy, name):
    tensors, impl = case(impl)
    view = LAZY[lazy](tensors[name])
    copied = results({**tensors, name: view.clone()}, impl)
    for mine, its in zip(results({**tensors, name: view}, impl), copied, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-6, atol=1e-6)  # products depend on strides


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "Minimal", "LSTMCell", "GRUCell", "MinimalCell"])
@pytest.mark.parametrize("lazy", LAZY)
def test_layers_and_cells_take_them(kind, lazy):
    torch.manual_seed(0)
    module, one = getattr(adapter, kind)(X, H), kind.endswith("Cell")
    view = LAZY[lazy](torch.randn((B, X) if one else (T, B, X)))
    for mine, its in zip(module(view), module(view.clone()), strict=True):
        pairs = zip(mine, its, strict=True) if isinstance(mine, tuple) else [(mine, its)]
        for pair in pairs:
            torch.testing.assert_close(*pair, rtol=1e-6, atol=1e-6)


def test_a_mask_of_zoneout_may_be_negated():
    tensors, impl = case("native")
    params = {k: tensors[k] for k in ("weight_ih", "weight_hh", "bias")}
    mask = -(torch.rand(T, B, H) < 0.5).float()
    outputs = [
        adapter.lstm(params, tensors["x"], zoneout=(z, z), impl=impl)[0]
        for z in (torch._neg_view(mask), -mask)
    ]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("name", ["x", "weight_ih", "weight_hh", "bias", "h", "c"])
@pytest.mark.parametrize("left", [0, 8], ids=["freed", "short"])
@pytest.mark.parametrize("impl", ["native", "reference", "float64", "plain", "scan"])
def test_memory_that_is_not_there_is_refused(impl, left, name):
    tensors, impl = case(impl)
    tensors[name].untyped_storage().resize_(left)
    named = "state" if name in ("h", "c") else name
    with pytest.raises(ValueError, match=rf"^{named} of shape .* storage has {left}"):
        results(tensors, impl)


@pytest.mark.parametrize("name", ["x", "weight_ih", "bias", "state"])
@pytest.mark.parametrize("left", [0, 8], ids=["freed", "short"])
@pytest.mark.parametrize("impl", ["native", "reference", "parallel", "plain"])
def test_memory_of_a_linear_recurrence_that_is_not_there_is_refused(impl, left, name):
    case(impl)
    params = {k: torch.tensor(v).float() for k, v in MinGRU(X, H).init(rng=0).items()}
    tensors = {**params, "x": torch.ones(T, B, X), "state": torch.ones(B, H)}
    tensors[name].untyped_storage().resize_(left)
    with pytest.raises(ValueError, match=rf"^{name} of shape .* storage has {left}"):
        adapter.mingru(params, tensors["x"], tensors["state"], impl=impl)


@pytest.mark.parametrize("left", [0, 8], ids=["freed", "short"])
@pytest.mark.parametrize("kind", ["LSTM", "bfloat16", "packed", "LSTMCell", "DNC", "GateUnit"])
def test_modules_name_arguments_whose_memory_is_not_there(kind, left):
    name = {"bfloat16": "LSTM", "packed": "LSTM"}.get(kind, kind)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    module = adapter.GateUnit(X) if name == "GateUnit" else getattr(adapter, name)(X, H).to(dtype)
    shape = {"LSTMCell": (B, X), "GateUnit": (B, 2 * X)}.get(kind, (T, B, X))

    def run(change, **others):
        x = torch.ones(shape, dtype=dtype)
        if kind == "packed":
            x = pack_padded_sequence(x, torch.full((B,), T))
        state = module(x) if kind == "LSTMCell" else module(x)[1]
        tensors = {"input": x.data if kind == "packed" else x, "hx": state[0], **others}
        tensors[change].untyped_storage().resize_(left)
        module(x, *([] if kind == "GateUnit" else [state]), **others)

    names = {"DNC": "x", "GateUnit": "logits"}
    with pytest.raises(ValueError, match=rf"^{names.get(kind, 'input|x')} of shape .* has {left}"):
        run("input")
    if kind != "GateUnit":
        with pytest.raises(ValueError, match=rf"^(hx|state) of shape .* storage has {left}"):
            run("hx")
    if name in ("LSTM", "DNC"):
        with pytest.raises(ValueError, match=rf"^resets of shape .* storage has {left}"):
            run("resets", resets=torch.zeros(T, B, dtype=torch.bool))


@pytest.mark.parametrize("impl", ["native", "reference", "plain", "scan"])
def test_functions_refuse_what_is_not_of_the_dtype_and_shape_of_x(impl):
    tensors, impl = case(impl)
    params = {k: tensors[k] for k in ("weight_ih", "weight_hh", "bias")}
    x, h, mask = tensors["x"], tensors["h"], torch.zeros(T, B, H)
    expected = {"state": h, "zoneout mask": mask, "resets": torch.zeros(T, B, dtype=torch.bool)}
    for name, right in expected.items():
        others = [torch.bfloat16, torch.float64, torch.complex64, torch.int64]
        for wrong in (*map(right.to, others), torch.conj(right.cfloat()), right[:1], right[0]):
            given = {**expected, name: wrong}
            with pytest.raises(ValueError, match=rf"^{name} must be torch\.\w+ of shape"):
                adapter.lstm(
                    params, x, (h, given["state"]), resets=given["resets"],
                    zoneout=(0.5, given["zoneout mask"]), impl=impl,
                )  # fmt: skip
    for wrong in (x.to(torch.complex64), x.to(torch.int64)):
        with pytest.raises(TypeError, match=r"^x must be float32 or float64, got torch"):
            adapter.lstm({k: v.to(wrong.dtype) for k, v in params.items()}, wrong, impl=impl)


def test_a_view_beyond_its_storage_is_refused():
    tensors, impl = case("native")
    long = torch.zeros(2, T, B, X)
    tensors["x"] = long[1]
    long.untyped_storage().resize_(4 * T * B * X + 4)
    with pytest.raises(ValueError, match=r"^x of shape"):
        results(tensors, impl)
    tensors["x"] = torch.zeros(B, T, X).transpose(0, 1)
    tensors["x"].untyped_storage().resize_(4)
    with pytest.raises(ValueError, match=r"^x of shape"):
        results(tensors, impl)


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_sparse_arguments_are_refused(impl):
    tensors, impl = case(impl)
    with pytest.raises(ValueError, match=r"needs a dense input, not torch\.sparse_coo"):
        results({**tensors, "x": tensors["x"].to_sparse()}, impl)
    tensors = {**tensors, "h": tensors["h"].to_sparse()}
    with pytest.raises(ValueError, match=r"^state must be .*sparse_coo"):
        results(tensors, impl)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "Minimal"])
@pytest.mark.parametrize("impl", IMPLS)
def test_results_can_be_changed_in_place(impl, kind):
    _, chosen = case(impl)
    dtype = torch.float64 if impl == "float64" else torch.float32
    layer, x = getattr(adapter, kind)(X, H, impl=chosen, dtype=dtype), torch.randn(T, B, X)
    gradients = []
    for in_place in (True, False):
        point = x.to(dtype).requires_grad_()
        output, state = layer(point)
        parts = [output, *(state if isinstance(state, tuple) else (state,))]
        doubled = [part.mul_(2) if in_place else 2 * part for part in parts]
        gradients += torch.autograd.grad(sum(d.sum() for d in doubled), [point])
    assert torch.equal(*gradients)
