"""Gates and states stay in float32 where weights or autocast are of half that precision."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import init  # noqa: E402
from gatecore.backends import load  # noqa: E402
from gatecore.backends.torch import (  # noqa: E402
    GRU,
    LSTM,
    GateUnit,
    GRUCell,
    LSTMCell,
    MinGRU,
    MinGRUCell,
    Minimal,
    MinimalCell,
)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "kind",
    [LSTM, GRU, Minimal, MinGRU, LSTMCell, GRUCell, MinimalCell, MinGRUCell],
    ids=lambda k: k.__name__,
)
def test_low_weights_give_low_outputs_and_wide_states(kind, dtype):
    layer = kind(3, 4, dtype=dtype)
    cell = kind.__name__.endswith("Cell")
    x = torch.randn(2, 3) if cell else torch.randn(5, 2, 3)
    result = layer(x.to(dtype))
    parts = result if isinstance(result, tuple) else (result,)
    state = parts[1] if not cell and kind is LSTM else result if cell else parts[1]
    kept = state[1] if isinstance(state, tuple) else state
    assert kept.dtype == torch.float32
    if not cell or kind is LSTMCell:
        assert parts[0].dtype == dtype
    parts[0].float().sum().backward()
    assert layer.weight_ih.grad.dtype == dtype if cell else layer.weight_ih_l0.grad.dtype == dtype
    layer(x.to(dtype), state)
    wider = tuple(s.double() for s in state) if isinstance(state, tuple) else state.double()
    layer(x.to(dtype), wider)


@pytest.mark.parametrize("kind", [LSTM, GRU, MinGRU])
def test_autocast_rounds_outputs_only(kind):
    layer, x = kind(3, 4), torch.randn(5, 2, 3)
    exact = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output, state = layer(x)
        layer(x.bfloat16())
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, exact[0].bfloat16())
    wide = (state[1], exact[1][1]) if kind is LSTM else (state, exact[1])
    assert torch.equal(*wide)


def test_a_gate_unit_has_float32_gates_of_low_logits():
    gate = GateUnit(4, dtype=torch.bfloat16)(torch.full((2, 8), 9.0, dtype=torch.bfloat16))
    assert gate.complement.dtype == torch.float32
    assert (gate.complement > 0).all()


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_bf16_weights_keep_a_state_over_long_times(kind, rng):
    """Timescales of 1e4 steps, 2e4 steps, in pieces of 5e3: within 1 % of float64."""
    hidden, steps = 8, 20_000
    layer = {"LSTM": LSTM, "GRU": GRU}[kind](2, hidden, mechanism="R", dtype=torch.bfloat16)
    forget = slice(hidden, 2 * hidden)
    with torch.no_grad():
        layer.bias_ih_l0[forget] = float(init.uniform_quantile(1 - 1e-4, 10**5))
    wide = {k.removesuffix("_l0"): v.detach().double() for k, v in layer.named_parameters()}
    x = torch.tensor(rng.standard_normal((steps, 1, 2)) + 0.5).bfloat16()
    with torch.no_grad():
        state = None
        for piece in x.split(steps // 4):
            _, state = layer(piece, state)
    bias = wide.pop("bias_ih") + wide.pop("bias_hh")
    params = {k: v.numpy() for k, v in wide.items()} | {"bias": bias.numpy()}
    if kind == "GRU":
        params["bias_n"] = np.zeros(hidden)
    _, exact, _ = getattr(load("numpy"), kind.lower())(params, x.double().numpy(), None, "R")
    kept, exact = (state[1], exact[1]) if kind == "LSTM" else (state, exact)
    assert np.abs(exact).max() > 0.05
    error = np.abs(kept[0].numpy() - exact).max() / np.abs(exact).max()
    assert error < 0.01
