"""The NumPy backend computes what torch does by the cells, and what torch's layers do."""

import numpy as np
import pytest

from gatecore import mechanism
from tests.sequences import INPUTS, VARIANTS, D, T, gradient, random_like, run, sequence_case
from tests.support import CORES, GATINGS, leaves, norm_error, rebuild

torch = pytest.importorskip("torch")
every = pytest.mark.parametrize("core", CORES)
gated = pytest.mark.parametrize("name", GATINGS)
varied = pytest.mark.parametrize("variant", VARIANTS)


def through_torch(case, weights):
    """(outputs, gradient) of a case by torch's differentiation of the cells' own steps."""
    point = rebuild(
        case.point, iter([torch.tensor(a, requires_grad=True) for a in leaves(case.point)])
    )
    layers = [point["params"]] if case.single else point["params"]
    states = [point["state"]] if case.single else point["state"]
    zoneouts = [case.zoneout] if case.single else case.zoneout or [None] * len(layers)
    xs, finals = point["x"], []
    for params, state, zoneout in zip(layers, states, zoneouts, strict=True):
        cell, outputs = CORES[case.core](xs.shape[2], D, case.gating), []
        for t in range(T):
            if case.resets is not None:
                keep = torch.tensor(~case.resets[t])[:, None]
                state = rebuild(state, iter([part * keep for part in leaves(state)]))
            at = (
                None
                if zoneout is None
                else [
                    torch.tensor(a[t]) if np.ndim(a) else a
                    for a in (zoneout if case.core == "lstm" else (zoneout,))
                ]
            )
            at = at if at is None or case.core == "lstm" else at[0]
            output, state = cell.step(params, xs[t], state, at)
            outputs.append(output)
        xs = torch.stack(outputs)
        finals.append(state)
    result = (xs, finals[0] if case.single else finals)
    pairs = zip(leaves(weights), leaves(result), strict=True)
    total = sum((torch.tensor(w) * r).sum() for w, r in pairs)
    grads = torch.autograd.grad(total, leaves(point))
    return xs.detach().numpy(), [g.numpy() for g in grads]


@every
@gated
@varied
def test_outputs_and_gradients_are_those_of_torch_through_the_cells(core, name, variant, rng):
    case = sequence_case(core, GATINGS[name], variant, rng)
    *result, pullback = run(case)
    weights = random_like(tuple(result), rng)
    output, grads = through_torch(case, weights)
    assert norm_error(result[0], output) < 1e-12
    for got, expected in zip(leaves(gradient(pullback, weights)), grads, strict=True):
        assert norm_error(got, expected) < 1e-12


# --- mechanism `standard` is torch's layer, stacked too -----------------------------------------


def torch_layer(case, module):
    """torch's own layer with the parameters of a case of mechanism `standard`."""
    layer = module(INPUTS, D, num_layers=2, dtype=torch.float64)
    for k, params in enumerate(case.point["params"]):
        for name in ("weight_ih", "weight_hh"):
            getattr(layer, f"{name}_l{k}").data = torch.tensor(params[name])
        hidden_bias = np.zeros_like(params["bias"])
        if "bias_n" in params:
            hidden_bias[-D:] = params["bias_n"]
        getattr(layer, f"bias_ih_l{k}").data = torch.tensor(params["bias"])
        getattr(layer, f"bias_hh_l{k}").data = torch.tensor(hidden_bias)
    return layer


@pytest.mark.parametrize(("core", "module"), [("lstm", "LSTM"), ("gru", "GRU")])
def test_standard_is_torchs_layer_with_all_gradients(core, module, rng):
    case = sequence_case(core, mechanism("standard"), "stacked", rng)
    case.resets = case.zoneout = None
    layer = torch_layer(case, getattr(torch.nn, module))
    x = torch.tensor(case.point["x"], requires_grad=True)
    parts = [[s] if core == "gru" else s for s in case.point["state"]]
    state = [torch.tensor(np.stack(p), requires_grad=True) for p in zip(*parts, strict=True)]
    expected, last = layer(x, tuple(state) if core == "lstm" else state[0])
    *result, pullback = run(case)
    weights = random_like(tuple(result), rng)
    ends = [
        np.stack(p) for p in zip(*[[s] if core == "gru" else s for s in weights[1]], strict=True)
    ]
    last = last if core == "lstm" else (last,)
    loss = (torch.tensor(weights[0]) * expected).sum()
    loss = loss + sum((torch.tensor(e) * s).sum() for e, s in zip(ends, last, strict=True))
    loss.backward()
    d_params, d_x, d_state = pullback(*weights)
    assert norm_error(result[0], expected.detach().numpy()) < 1e-10
    assert norm_error(d_x, x.grad.numpy()) < 1e-10
    for k, d_layer in enumerate(d_params):
        for name in ("weight_ih", "weight_hh"):
            assert norm_error(d_layer[name], getattr(layer, f"{name}_l{k}").grad.numpy()) < 1e-10
        assert norm_error(d_layer["bias"], getattr(layer, f"bias_ih_l{k}").grad.numpy()) < 1e-10
        if core == "gru":
            d_bias_n = getattr(layer, f"bias_hh_l{k}").grad.numpy()[-D:]
            assert norm_error(d_layer["bias_n"], d_bias_n) < 1e-10
        own = [d_state[k]] if core == "gru" else d_state[k]
        for got, start in zip(own, state, strict=True):
            assert norm_error(got, start.grad[k].numpy()) < 1e-10
