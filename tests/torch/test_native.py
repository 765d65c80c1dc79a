"""The native implementation of the sequence operator: it equals stepping."""

import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch.utils.checkpoint import checkpoint  # noqa: E402

from gatecore.backends import torch as adapter  # noqa: E402
from gatecore.backends.native import library  # noqa: E402
from gatecore.backends.torch.sequence.custom_op import sequence  # noqa: E402
from gatecore.backends.torch.sequence.run import run  # noqa: E402
from tests.support import CORES, EVERY_CORE, GATINGS  # noqa: E402
from tests.torch.test_operation import arguments  # noqa: E402

pytestmark = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))
T, B, X, H = 7, 5, 3, 18


def leaves(core, gating, rng):
    cell = EVERY_CORE[core](X, H, gating)
    params = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    arrays = [*params.values(), rng.standard_normal((T, B, X)), *rng.standard_normal((2, B, H))]
    tensors = [torch.tensor(a, dtype=torch.float32, requires_grad=True) for a in arrays]
    return (
        dict(zip(params, tensors, strict=False)),
        tensors[len(params)],
        tensors[len(params) + 1 :],
    )


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_outputs_and_gradients_equal_those_of_stepping(core, gating, rng):
    params, x, (h, c) = leaves(core, GATINGS[gating], rng)
    draws = torch.tensor((rng.random((T, B, H)) < 0.3).astype(np.float32))
    keywords = {"resets": torch.tensor(rng.random((T, B)) < 0.2)}
    keywords |= {"zoneout": (0.1, draws), "return_cells": True} if core == "lstm" else {}
    results = []
    for impl in ("native", "plain"):
        state = (h, c) if core == "lstm" else h
        result = getattr(adapter, core)(params, x, state, GATINGS[gating], impl=impl, **keywords)
        parts = flat(result)
        sources = [*params.values(), x, *flat(state)]
        loss = sum((part.sin() * (1 + k)).sum() for k, part in enumerate(parts))
        results.append([*parts, *torch.autograd.grad(loss, sources)])
    for native, stepping in zip(*results, strict=True):
        torch.testing.assert_close(native, stepping, rtol=2e-5, atol=2e-5)


def flat(nest):
    return [leaf for part in nest for leaf in flat(part)] if isinstance(nest, tuple) else [nest]


@pytest.mark.parametrize("core", ["lstm", "mingru"])
def test_the_operator_passes_opcheck(core):
    *values, _, save = arguments(core, "UR", core == "lstm")
    single = [
        a.detach().float().requires_grad_()
        if isinstance(a, torch.Tensor) and a.requires_grad
        else a
        for a in values
    ]
    torch.library.opcheck(sequence, (*single, "native", save))


def test_auto_is_native_in_float32_and_reference_in_float64():
    x = torch.randn(5, 2, 3)
    for dtype, impl in ((torch.float32, "native"), (torch.float64, "reference")):
        layer = adapter.LSTM(3, 4, dtype=dtype)
        layer(x.to(dtype))
        assert layer.last_impl == impl
    with pytest.raises(ValueError, match=r"computes in float32, not float64"):
        adapter.LSTM(3, 4, dtype=torch.float64, impl="native")(x.double())


def test_results_without_gradients_are_equal():
    layer, x = adapter.LSTM(3, 40, num_layers=2), torch.randn(9, 4, 3)
    output, (h, c) = layer(x)
    with torch.no_grad():
        again, (h2, c2) = layer(x)
    assert all(map(torch.equal, (output, h, c), (again, h2, c2)))


def test_second_derivatives_equal_those_of_stepping():
    layer, x = adapter.GRU(2, 3), torch.randn(4, 2, 2, requires_grad=True)
    second = []
    for layer.impl in ("native", "plain"):
        (first,) = torch.autograd.grad(layer(x)[0].pow(2).sum(), x, create_graph=True)
        second.append(torch.autograd.grad(first.pow(2).sum(), x)[0])
    torch.testing.assert_close(*second, rtol=1e-4, atol=1e-5)


def test_strided_tensors_give_the_results_of_stepping():
    layer = adapter.LSTM(3, 8, batch_first=True)
    x = torch.randn(4, 6, 6)[..., ::2]
    results = []
    for layer.impl in ("native", "plain"):
        output = layer(x)[0]
        gradients = torch.autograd.grad(output[:, ::2].pow(2).sum(), [*layer.parameters()][:2])
        results.append([output, *gradients])
    for native, stepping in zip(*results, strict=True):
        torch.testing.assert_close(native, stepping, rtol=1e-5, atol=1e-5)


def test_results_depend_on_the_number_of_threads_only_by_rounding():
    layer, x, threads = adapter.LSTM(3, 24), torch.randn(9, 13, 3), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            output = layer(x)[0]
            results.append([output, *torch.autograd.grad(output.sum(), layer.weight_hh_l0)])
    finally:
        torch.set_num_threads(threads)
    one, two, again = results
    assert all(map(torch.equal, two, again))
    assert torch.equal(one[0], two[0])
    torch.testing.assert_close(one[1], two[1], rtol=1e-5, atol=1e-5)


@pytest.fixture
def default_dtype():
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@pytest.mark.parametrize("layer", [adapter.LSTM, adapter.GRU])
def test_results_do_not_depend_on_the_default_dtype_and_device(layer, default_dtype):
    layer, x = layer(3, 8, dtype=torch.float32), torch.randn(5, 2, 3)

    def computed():
        output, last = layer(x)
        return [output, *flat(last), *torch.autograd.grad(output.sum(), [*layer.parameters()][:3])]

    expected = computed()
    default_dtype(torch.float64)
    with torch.device("meta"):
        results = computed()
    assert layer.last_impl == "native"
    for value, before in zip(results, expected, strict=True):
        assert value.dtype == torch.float32
        assert torch.equal(value, before)


@pytest.mark.parametrize("name", ["weight_hh", "x", "resets", "draws", "h", "bias_hh"])
def test_a_backward_pass_raises_after_in_place_changes_of_its_inputs(name, rng):
    params, x, (h, c) = leaves("lstm", "UR", rng)
    params["bias_hh"] = torch.zeros_like(params["bias"])
    tensors = {**params, "x": x, "h": h, "resets": torch.zeros(T, B, dtype=torch.bool)}
    tensors["draws"] = torch.zeros(T, B, H)
    cell = CORES["lstm"](X, H, "UR")
    zoneout = (tensors["draws"], 0.1)
    result = run(cell, params, x, (h, c), tensors["resets"], zoneout, impl="native")
    with torch.no_grad():
        tensors[name].fill_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.outputs[0].sum().backward()


def test_an_input_is_freed_after_the_backward_pass():
    layer, x = adapter.LSTM(3, 8), torch.randn(5, 2, 3)
    alive = weakref.ref(x)
    output = layer(x)[0]
    del x
    assert alive() is not None
    output.sum().backward()
    assert alive() is None


@pytest.mark.parametrize("two_biases", [False, True])
@pytest.mark.parametrize("core", ["LSTM", "GRU", "Minimal"])
def test_gradients_of_both_biases_equal_those_of_stepping(core, two_biases):
    layer = getattr(adapter, core)(3, 8, two_biases=two_biases)
    torch.nn.init.normal_(layer.bias_hh_l0)
    x, results = torch.randn(5, 2, 3), []
    for layer.impl in ("native", "plain"):
        layer.zero_grad()
        output, last = layer(x)
        (output.sin().sum() + flat(last)[-1].sum()).backward()
        results.append([output, *(p.grad for p in layer.parameters() if p.requires_grad)])
    assert len(results[0]) == (5 if two_biases or core == "GRU" else 4)
    for native, stepping in zip(*results, strict=True):
        torch.testing.assert_close(native, stepping, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("core", ["LSTM", "GRU"])
def test_an_empty_batch_gives_the_results_of_torch(core):
    results = []
    gated = getattr(adapter, core)(3, 8, mechanism="standard")
    for layer in (gated, getattr(torch.nn, core)(3, 8)):
        x = torch.randn(5, 0, 3, requires_grad=True)
        output, last = layer(x)
        output.sum().backward()
        gradients = [layer.weight_ih_l0.grad, layer.weight_hh_l0.grad, layer.bias_ih_l0.grad]
        results.append([output, *flat(last), x.grad, *gradients])
    assert all(map(torch.equal, *results))


def test_activation_checkpointing_gives_equal_gradients():
    layer, x = adapter.LSTM(3, 8, num_layers=2), torch.randn(5, 2, 3, requires_grad=True)
    sources = [x, *(p for p in layer.parameters() if p.requires_grad)]
    again = checkpoint(lambda x: layer(x)[0], x, use_reentrant=False)
    gradients = [torch.autograd.grad(output.sum(), sources) for output in (again, layer(x)[0])]
    assert all(map(torch.equal, *gradients))
