"""Every mechanism equals the NumPy backend, by the whole-sequence operation and step by step."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import backends, cells  # noqa: E402
from gatecore.backends import torch as adapter  # noqa: E402
from tests.support import CORES, EVERY_CORE, GATINGS  # noqa: E402

numpy = backends.load("numpy")
T, B, X, H = 6, 3, 2, 6


def problem(core, gating, rng):
    cell = EVERY_CORE[core](X, H, gating)
    params = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    state = tuple(rng.standard_normal((2, B, H)) / 2)
    extras = {
        "resets": rng.random((T, B)) < 0.2,
        "zoneout": ((rng.random((T, B, H)) < 0.3).astype(float), 0.1),
    }
    if core != "lstm":
        state, extras["zoneout"] = state[0], extras["zoneout"][0]
    return params, rng.standard_normal((T, B, X)), state, extras


def tensor(value):
    if isinstance(value, tuple):
        return tuple(map(tensor, value))
    if isinstance(value, np.ndarray):
        return torch.tensor(value, requires_grad=value.dtype == float and value.ndim < 4)
    return value


@pytest.mark.parametrize("with_extras", [False, True], ids=["", "with resets and zoneout"])
@pytest.mark.parametrize("impl", ["reference", "parallel", "plain"])
@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", EVERY_CORE)
def test_outputs_and_gradients(core, gating, impl, with_extras, rng):
    if impl == "parallel" and core in CORES:
        pytest.skip("its gates depend on the state")
    params, x, state, extras = problem(core, GATINGS[gating], rng)
    extras = extras if with_extras else {}
    keywords = {"return_cells": True} if core == "lstm" else {}
    function = getattr(numpy, core)
    output, final, pullback = function(params, x, state, GATINGS[gating], **extras, **keywords)
    cotangent = tuple(rng.standard_normal((2, T, B, H)))
    d_final = tuple(rng.standard_normal((2, B, H)))
    if core != "lstm":
        cotangent, d_final = cotangent[0], d_final[0]
    expected = pullback(cotangent, d_final)

    leaves = {k: torch.tensor(v, requires_grad=True) for k, v in params.items()}
    x_leaf, start = torch.tensor(x, requires_grad=True), tensor(state)
    fixed = {k: tensor(v) for k, v in extras.items()}
    with torch.no_grad():
        fixed = torch.utils._pytree.tree_map_only(torch.Tensor, torch.detach, fixed)
    result = getattr(adapter, core)(
        leaves, x_leaf, start, GATINGS[gating], impl=impl, **fixed, **keywords
    )
    results = flat(result)
    for a, b in zip(results, flat((output, final)), strict=True):
        torch.testing.assert_close(a.detach().numpy(), b, rtol=0, atol=1e-12)
    sources = [*leaves.values(), x_leaf, *flat(start)]
    gradients = torch.autograd.grad(
        results, sources, [torch.tensor(c) for c in flat((cotangent, d_final))]
    )
    references = [*(expected[0][k] for k in leaves), expected[1], *flat(expected[2])]
    for a, b in zip(gradients, references, strict=True):
        torch.testing.assert_close(a.numpy(), b, rtol=1e-12, atol=1e-12)


def flat(nest):
    return [leaf for part in nest for leaf in flat(part)] if isinstance(nest, tuple) else [nest]


@pytest.mark.parametrize("name", ["standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR"])
@pytest.mark.parametrize("core", CORES)
def test_a_layer_is_the_core_with_the_sum_of_its_biases(core, name, rng):
    kind = {"lstm": adapter.LSTM, "gru": adapter.GRU, "minimal": adapter.Minimal}[core]
    layer = kind(X, H, mechanism=name, dtype=torch.float64)
    with torch.no_grad():
        for value in layer.parameters():
            value.normal_()
    weights = {k.removesuffix("_l0"): v.detach().numpy() for k, v in layer.named_parameters()}
    params = {k: v for k, v in weights.items() if k.startswith("weight")}
    params["bias"] = weights["bias_ih"] + weights["bias_hh"]
    if core == "gru":
        n = slice(2 * H, 3 * H)
        params["bias"] = weights["bias_ih"] + np.where(
            np.isin(np.arange(len(weights["bias_hh"])), np.r_[n]), 0, weights["bias_hh"]
        )
        params["bias_n"] = weights["bias_hh"][n]
    x = rng.standard_normal((T, B, X))
    expected = getattr(numpy, core)(params, x, None, name)[0]
    output = layer(torch.tensor(x))[0].detach().numpy()
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-12)
    assert cells.CELLS[core](X, H, name).rows == len(weights["bias_ih"])
