"""torch.func, forward mode, packed and reset sequences, and torch's error texts."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
from torch import nn  # noqa: E402
from torch.func import functional_call, grad, jvp, vmap  # noqa: E402
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence  # noqa: E402

from gatecore import mechanism  # noqa: E402
from gatecore.backends.torch import (  # noqa: E402
    GRU,
    LSTM,
    GateUnit,
    GRUCell,
    LSTMCell,
    MinGRU,
    Minimal,
)
from gatecore.backends.torch.nn.gate_unit import gate  # noqa: E402


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(6)


def test_functional_gradients_of_many_models_at_once():
    layer, x = LSTM(3, 4, dtype=torch.float64), torch.randn(5, 2, 3, dtype=torch.float64)

    def loss(params, x):
        return functional_call(layer, params, (x,))[0].pow(2).sum()

    params = {k: v.detach() for k, v in layer.named_parameters()}
    found = grad(loss)(params, x)
    assert layer.last_impl == "plain"
    loss(dict(layer.named_parameters()), x).backward()
    assert layer.last_impl == "reference"
    for name, value in layer.named_parameters():
        if value.requires_grad:
            torch.testing.assert_close(found[name], value.grad, rtol=1e-12, atol=1e-12)
    each = vmap(grad(loss), in_dims=(None, 1))(params, x.unsqueeze(2))
    torch.testing.assert_close(each["weight_hh_l0"].sum(0), found["weight_hh_l0"])
    stacked = {k: torch.stack([v, 2 * v]) for k, v in params.items()}
    both = vmap(lambda p: functional_call(layer, p, (x,))[0])(stacked)
    torch.testing.assert_close(both[0], layer(x)[0])


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch's own, of itself
def test_forward_mode():
    layer, x = GRU(3, 4, dtype=torch.float64), torch.randn(2, 5, 2, 3, dtype=torch.float64)
    _, tangent = jvp(lambda v: layer(v)[0], (x[0],), (x[1],))
    step = 1e-6
    difference = (layer(x[0] + step * x[1])[0] - layer(x[0] - step * x[1])[0]) / (2 * step)
    torch.testing.assert_close(tangent, difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("both_ways", [False, True])
def test_a_reset_is_a_new_sequence(both_ways):
    layer = LSTM(3, 4, 2, bidirectional=both_ways, dtype=torch.float64)
    x = torch.randn(7, 1, 3, dtype=torch.float64)
    resets = torch.zeros(7, 1, dtype=torch.bool)
    resets[3] = True
    apart = torch.cat([layer(x[:3])[0], layer(x[3:])[0]])
    torch.testing.assert_close(layer(x, resets=resets)[0], apart, rtol=0, atol=1e-13)
    layer.batch_first = True
    turned = layer(x.transpose(0, 1), resets=resets.T)[0]
    torch.testing.assert_close(turned.transpose(0, 1), apart, rtol=0, atol=1e-13)
    torch.testing.assert_close(layer(x[:, 0], resets=resets[:, 0])[0], apart[:, 0])


@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal, MinGRU])
def test_packed_sequences_are_each_as_if_alone(kind):
    layer = kind(3, 4, 2, bidirectional=True, dtype=torch.float64)
    parts = [torch.randn(n, 3, dtype=torch.float64) for n in (2, 5, 3)]
    resets = torch.zeros(5, 3, dtype=torch.bool)
    resets[1, 1] = resets[2, 2] = True
    packed, last = layer(pack_sequence(parts, enforce_sorted=False), resets=resets)
    output, lengths = pad_packed_sequence(packed)
    for k, part in enumerate(parts):
        alone, state = layer(part, resets=resets[: len(part), k])
        torch.testing.assert_close(output[: lengths[k], k], alone, rtol=0, atol=1e-13)
        pairs = zip(last, state, strict=True) if kind is LSTM else [(last, state)]
        for mine, its in pairs:
            torch.testing.assert_close(mine[:, k], its, rtol=0, atol=1e-13)


def test_cell_states_of_all_steps():
    layer, x = LSTM(3, 4, return_cells=True), torch.randn(5, 2, 3)
    (output, memory), (h, c) = layer(x)
    torch.testing.assert_close(memory[-1:], c)
    torch.testing.assert_close(output[-1:], h)
    (packed, cells), _ = layer(pack_padded_sequence(x, [5, 3]))
    assert cells.data.shape == packed.data.shape
    assert torch.is_tensor(layer(x, return_cells=False)[0])
    with pytest.raises(ValueError, match="GRU has no cell state"):
        GRU(3, 4, return_cells=True)


def test_zoneout_draws_in_training_and_takes_the_mean_in_evaluation():
    layer, x = LSTM(3, 32, zoneout=(0.5, 0.2)), torch.randn(6, 4, 3)
    first, second = layer(x)[0], layer(x)[0]
    assert not torch.equal(first, second)
    layer.eval()
    assert torch.equal(layer(x)[0], layer(x)[0])
    keeping = GRU(3, 4, zoneout=1.0)
    assert not keeping(x)[0].any()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: LSTM(3, 4, zoneout=2.0), ValueError, r"zoneout must lie in \[0, 1\]"),
        (lambda: GRU(3, 4, zoneout=(0.1, 0.2)), ValueError, "zoneout must be a number"),
        (lambda: LSTM(3, 4, mechanism="RU"), ValueError, "did you mean"),
        (lambda: LSTM(3, 9, mechanism="OM").__class__(3, 9, mechanism="XX"), ValueError, "known"),
        (lambda: LSTM(3, 1), ValueError, "hidden_size must be at least 2"),
        (lambda: GRU(3, 4, proj_size=2), ValueError, "only supported for LSTM"),
        (
            lambda: LSTM(3, 4)(torch.randn(5, 2, 3), resets=torch.zeros(5, 2)),
            ValueError,
            "resets must be torch.bool",
        ),
        (
            lambda: LSTM(3, 4)(torch.randn(5, 2, 3), (torch.zeros(1, 2, 4).double(),) * 2),
            RuntimeError,
            "not the same dtype",
        ),
        (lambda: LSTM(3, 4)(torch.randn(0, 2, 3)), RuntimeError, "larger than 0"),
        (lambda: GateUnit(4)(torch.zeros(2, 4)), ValueError, "must have 8 entries"),
        (
            lambda: GateUnit(4, mechanism("UR", tied=False)),
            ValueError,
            "tied=False .* is for cells",
        ),
    ],
)
def test_errors_say_what_was_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal, MinGRU, LSTMCell, GRUCell, GateUnit])
def test_a_layer_is_one_node_of_a_traced_graph(kind):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = GateUnit(8) if kind is GateUnit else kind(16, 8)

        def forward(self, x):
            return self.rnn(x.tanh())[0] + 1

    model, x = Model(), torch.randn(3, 2, 16)
    traced = torch.fx.symbolic_trace(model)
    nodes = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert nodes == ["rnn"]
    x = x[0] if kind in (LSTMCell, GRUCell) else x
    assert torch.equal(traced(x), model(x))


def test_a_gate_unit_gates_a_highway_layer():
    class Highway(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.gate = GateUnit(size, "UR")
            self.logits = nn.Linear(size, self.gate.features, bias=False)
            self.inner = nn.Linear(size, size)

        def forward(self, x):
            carry = self.gate(self.logits(x))
            return carry.value * x + carry.complement * self.inner(x).tanh()

    layer = Highway(6)
    layer(torch.randn(3, 6)).sum().backward()
    assert layer.gate.bias.grad.any()
    unit = layer.gate
    logits = torch.randn(3, 12)
    assert torch.equal(gate(logits, "UR", unit.bias, size=6).value, unit(logits).value)


@pytest.mark.parametrize("name", ["standard", "U", "C", "O", "R", "UR", "OR", "OM", "UM"])
def test_a_gate_unit_has_every_mechanism(name):
    unit = GateUnit(8, name, dtype=torch.float64)
    gate = unit(torch.randn(3, unit.features, dtype=torch.float64))
    torch.testing.assert_close(gate.value + gate.complement, torch.ones_like(gate.value))
    assert gate.value.shape == (3, 8)


@pytest.mark.filterwarnings("ignore")  # torch's own: tracing is deprecated, and warns of checks
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_traced_layer_runs_other_lengths_and_batch_sizes(kind, dtype):
    layer = kind(3, 4, 2, mechanism="UR", dtype=dtype).eval()
    traced = torch.jit.trace(layer, torch.randn(5, 2, 3, dtype=dtype), check_trace=False)
    for time, batch in ((5, 2), (9, 2), (5, 4), (7, 3)):
        x = torch.randn(time, batch, 3, dtype=dtype)
        torch.testing.assert_close(traced(x)[0], layer(x)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.*:DeprecationWarning")  # of itself
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # of checks of shapes
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_trace_passes_torchs_check_and_is_differentiated(dtype):
    layer, x = LSTM(3, 4, dtype=dtype), torch.randn(4, 2, 3, dtype=dtype)
    leaves = list(layer.parameters())
    expected = torch.autograd.grad(layer(x)[0].sum(), leaves)
    traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(torch.autograd.grad(traced(x)[0].sum(), leaves), expected)
    with torch.no_grad():
        traced = torch.jit.trace(layer, (x,))
    torch.testing.assert_close(torch.autograd.grad(traced(x)[0].sum(), leaves), expected)
