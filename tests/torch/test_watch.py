"""`watch` against gates that are computed step by step from the model's weights."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from gatecore.analysis.figures import gate_histograms
from gatecore.backends.torch import (
    GRU,
    LSTM,
    GateUnit,
    GRUCell,
    LSTMCell,
    MinGRU,
    MinGRUCell,
    Minimal,
    MinimalCell,
    convert,
    watch,
)
from gatecore.cells import CELLS

T, B, INPUT, HIDDEN = 7, 3, 4, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def reference_lstm(x, weights, h, c):
    """Forget gates (time, hidden) and hidden states of one sequence, by torch's equations."""
    w_ih, w_hh, b_ih, b_hh, *rest = weights
    gates, hidden = [], []
    for step in x:
        i, f, g, o = np.split(w_ih @ step + b_ih + w_hh @ h + b_hh, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        h = rest[0] @ h if rest else h
        gates.append(sigmoid(f))
        hidden.append(h)
    return np.array(gates), np.array(hidden)


def reference_gru(x, weights, h, _):
    w_ih, w_hh, b_ih, b_hh = weights
    gates, hidden = [], []
    for step in x:
        (r, z, n), (hr, hz, hn) = np.split(w_ih @ step + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        z = sigmoid(z + hz)
        h = z * h + (1 - z) * np.tanh(n + sigmoid(r + hr) * hn)
        gates.append(z)
        hidden.append(h)
    return np.array(gates), np.array(hidden)


def reference_gates(layer, sequences, h0=None, c0=None):
    """All forget gates of each layer and direction of torch's LSTM or GRU, by sequences."""
    run = reference_lstm if isinstance(layer, nn.LSTM) else reference_gru
    directions = 2 if layer.bidirectional else 1
    xs, gates_by_name = [s.double().numpy() for s in sequences], {}
    for number in range(layer.num_layers):
        outputs = []
        for direction in range(directions):
            k = number * directions + direction
            weights = [w.detach().double().numpy() for w in layer.all_weights[k]]
            hs, gates = [], []
            for b, x in enumerate(xs):
                h = np.zeros(weights[1].shape[1]) if h0 is None else h0[k, b].numpy()
                c = np.zeros(layer.hidden_size) if c0 is None else c0[k, b].numpy()
                way = slice(None, None, -1 if direction else 1)
                gate, hidden = run(x[way], weights, h, c)
                gates.append(gate)
                hs.append(hidden[way])
            gates_by_name[f"l{number}" + "_reverse" * direction] = np.concatenate(gates)
            outputs.append(hs)
        xs = [np.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True)]
    return gates_by_name


def assert_same(statistics, expected, rtol=1e-9):
    assert statistics.means().keys() == expected.keys()
    for name, gates in expected.items():
        mean = statistics.means()[name]
        np.testing.assert_allclose(mean.value, gates.mean(axis=0), rtol=rtol)
        np.testing.assert_allclose(mean.complement, (1 - gates).mean(axis=0), rtol=rtol)
        with np.errstate(divide="ignore"):  # an ordered gate's last unit never forgets
            steps = 1 / (1 - gates).mean(axis=0)
        np.testing.assert_allclose(statistics.timescales()[name], steps, rtol=rtol)
        assert statistics.counts()[name] == len(gates)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize(
    "settings",
    [{}, {"num_layers": 3}, {"bidirectional": True}, {"num_layers": 2, "bidirectional": True}],
    ids=str,
)
def test_layers_of_torch_with_and_without_states_and_batch(kind, settings):
    layer = kind(INPUT, HIDDEN, dtype=torch.float64, **settings)
    x = inputs(T, B, INPUT)
    with watch(layer) as statistics:
        layer(x)
    assert_same(statistics, reference_gates(layer, x.unbind(1)))

    count = layer.num_layers * (1 + layer.bidirectional)
    h, c = inputs(count, B, HIDDEN), inputs(count, B, HIDDEN)
    layer.batch_first = True
    with watch(layer) as statistics:
        layer(x.transpose(0, 1), hx=(h, c) if kind is nn.LSTM else h)
    assert_same(statistics, reference_gates(layer, x.unbind(1), h, c))

    with watch(layer) as statistics:
        layer(x[:, 0])
    assert_same(statistics, reference_gates(layer, [x[:, 0]]))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("with_states", [False, True], ids=["", "states"])
def test_steps_beyond_the_end_of_packed_sequences_are_excluded(kind, with_states):
    layer = kind(INPUT, HIDDEN, num_layers=2, bidirectional=True, dtype=torch.float64)
    sequences = [inputs(length, INPUT) for length in (2, 7, 4)]
    h, c = inputs(4, 3, HIDDEN), inputs(4, 3, HIDDEN)
    states = (h, c) if kind is nn.LSTM else h
    packed = pack_sequence(sequences, enforce_sorted=False)
    with watch(layer) as statistics:
        layer(packed, states if with_states else None)
    expected = reference_gates(layer, sequences, *((h, c) if with_states else ()))
    assert_same(statistics, expected)
    assert set(statistics.counts().values()) == {2 + 7 + 4}


@pytest.mark.parametrize("settings", [{"bias": False}, {"proj_size": 2, "num_layers": 2}], ids=str)
def test_an_lstm_without_bias_or_with_a_projection(settings):
    layer = nn.LSTM(INPUT, HIDDEN, dtype=torch.float64, **settings)
    x = inputs(T, B, INPUT)
    with watch(layer) as statistics:
        layer(x)
    unbiased = copy.deepcopy(layer)
    if not layer.bias:
        zero = torch.zeros(4 * HIDDEN, dtype=torch.float64)
        weights = [[*layer.all_weights[0], zero, zero]]
        unbiased = type("Twin", (nn.LSTM,), {"all_weights": weights})(INPUT, HIDDEN)
    assert_same(statistics, reference_gates(unbiased, x.unbind(1)))


def test_dropout_between_layers_of_torch_is_left_out_and_its_masks_stay_the_same():
    layer = nn.LSTM(INPUT, HIDDEN, num_layers=2, dropout=0.5, dtype=torch.float64)
    x = inputs(T, B, INPUT)
    torch.manual_seed(1)
    expected = layer(x)[0]
    torch.manual_seed(1)
    with watch(layer) as statistics:
        output = layer(x)[0]
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert_same(statistics, reference_gates(layer, x.unbind(1)))


def gates_of_cell(layer, k, x, states, zeros):
    """Gates of one of gatecore's layers by the framework-neutral cell, step by step."""
    cell = CELLS[layer.core](x.shape[-1], HIDDEN, layer.mechanism)
    weights = {key: getattr(layer, name).detach() for key, name in layer._names[k].items()}
    params = {**weights, "bias": weights["bias_ih"], "bias_n": zeros[0]}
    before = torch.cat([zeros.unsqueeze(0), states[:-1]])
    states = [cell.state([h] * len(cell.state_names)) for h in before]
    gates = [cell.gates(params, *step)[0].value for step in zip(x, states, strict=True)]
    return torch.stack(gates).flatten(0, 1).numpy()


@pytest.mark.parametrize("name", ["standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR"])
@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal, MinGRU])
def test_layers_of_gatecore_with_every_mechanism(kind, name):
    options = {} if kind is MinGRU else {"two_biases": False}
    layer = kind(INPUT, HIDDEN, dtype=torch.float64, mechanism=name, **options)
    x = inputs(T, B, INPUT)
    with watch(layer) as statistics:
        output, _ = layer(x)
    zeros = torch.zeros(B, HIDDEN, dtype=torch.float64)
    assert_same(statistics, {"l0": gates_of_cell(layer, 0, x, output.detach(), zeros)}, rtol=1e-7)


def test_stacks_of_gatecore_have_gates_with_dropout_and_zoneout_as_trained():
    """The same masks in two single layers, with dropout between them."""
    layer = LSTM(INPUT, HIDDEN, 2, dropout=0.5, zoneout=0.3, dtype=torch.float64)
    below = LSTM(INPUT, HIDDEN, zoneout=0.3, dtype=torch.float64)
    above = LSTM(HIDDEN, HIDDEN, zoneout=0.3, dtype=torch.float64)
    for k, single in enumerate((below, above)):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(single, f"{name}_l0").data.copy_(getattr(layer, f"{name}_l{k}").data)
    x = inputs(T, B, INPUT)
    with watch(layer) as statistics:
        torch.manual_seed(5)
        output, _ = layer(x)
    torch.manual_seed(5)
    middle = below(x)[0].detach()
    dropped = nn.functional.dropout(middle, 0.5)
    last = above(dropped)[0].detach()
    torch.testing.assert_close(output.detach(), last, rtol=0, atol=0)
    zeros = torch.zeros(B, HIDDEN, dtype=torch.float64)
    expected = {
        "l0": gates_of_cell(layer, 0, x, middle, zeros),
        "l1": gates_of_cell(layer, 1, dropped, last, zeros),
    }
    assert_same(statistics, expected)


def test_layers_of_gatecore_with_packed_sequences_resets_and_both_directions():
    """`standard` computes what torch does: equal weights have equal gates."""
    reference = nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True, dtype=torch.float64)
    layer = LSTM.from_lstm(reference, "standard")
    packed = pack_sequence([inputs(n, INPUT) for n in (5, 7, 2)], enforce_sorted=False)
    with watch(reference) as expected, watch(layer) as statistics:
        reference(packed)
        layer(packed)
    for name, gate in expected.means().items():
        np.testing.assert_allclose(statistics.means()[name].value, gate.value, rtol=1e-9)
    assert statistics.counts() == expected.counts()

    x, resets = inputs(2 * T, B, INPUT), torch.zeros(2 * T, B, dtype=torch.bool)
    resets[T] = True
    with watch(layer) as statistics:
        layer(x, resets=resets)
    with watch(layer) as halves:
        layer(x[:T])
        layer(x[T:])
    for name, gate in halves.means().items():
        np.testing.assert_allclose(statistics.means()[name].value, gate.value, rtol=1e-9)


@pytest.mark.parametrize(
    "kind",
    [nn.LSTMCell, nn.GRUCell, LSTMCell, GRUCell, MinimalCell, MinGRUCell],
    ids=lambda k: k.__name__,
)
def test_cells_step_by_step(kind):
    cell = kind(INPUT, HIDDEN, dtype=torch.float64)
    steps, state = inputs(T, B, INPUT), None
    core = getattr(cell, "core", "lstm" if kind is nn.LSTMCell else "gru")
    neutral = CELLS[core](INPUT, HIDDEN, getattr(cell, "mechanism", "standard"))
    weights = {name: value.detach() for name, value in cell.named_parameters()}
    zeros, expected = neutral.initial_state(steps), []
    bias = weights["bias_ih"] + weights.get("bias_hh", 0)
    params = {**weights, "bias": bias, "bias_n": torch.zeros(HIDDEN).double()}
    with watch(cell) as statistics:
        for x in steps:
            expected.append(neutral.gates(params, x, zeros if state is None else state)[0].value)
            state = cell(x, state)
        cell(x[0])  # unbatched
    zeros = neutral.initial_state(steps[:, :1])
    expected.append(neutral.gates(params, x[:1], zeros)[0].value)
    assert_same(statistics, {"": torch.cat(expected).detach().numpy()})


def test_gate_units_and_their_saturation():
    unit = GateUnit(2, "standard").double()
    unit.bias.data.zero_()
    logits = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [5.0, -5.0], [0.0, 5.0]], dtype=torch.float64)
    model = nn.ModuleDict({"highway": unit})
    with watch(model, saturated=0.05) as statistics:
        model["highway"](logits)
        model["highway"](logits[0])
    shut, open_ = statistics.saturation()["highway"]
    assert (shut.tolist(), open_.tolist()) == ([0.4, 0.2], [0.4, 0.2])
    expected = sigmoid(np.concatenate([logits.numpy(), logits[:1].numpy()]))
    assert_same(statistics, {"highway": expected})


def test_names_are_those_of_the_models_modules():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(2, INPUT), nn.GRU(INPUT, HIDDEN))
            self.decoder = nn.LSTM(HIDDEN, HIDDEN, bidirectional=True)
            self.unused = nn.LSTM(2, 2)

        def forward(self, x):
            return self.decoder(self.encoder(x)[0])

    model = Model()
    for watched in (model, convert(copy.deepcopy(model), "UR")):
        with watch(watched) as statistics:
            watched(torch.randn(T, B, 2))
        assert set(statistics.means()) == {"encoder.1.l0", "decoder.l0", "decoder.l0_reverse"}
        assert len(gate_histograms({k: (None, v) for k, v in statistics.means().items()}).axes) == 6


def test_training_under_watch_is_the_same_bit_for_bit():
    def trained(watched):
        torch.manual_seed(0)
        model = nn.Sequential(LSTM(INPUT, HIDDEN, 2, dropout=0.2, zoneout=0.1))
        gates = watch(model) if watched else None
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(T, B, INPUT))[0].square().sum().backward()
            optimizer.step()
        return model.state_dict(), gates

    (plain, _), (watched, gates) = trained(False), trained(True)
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    assert gates.counts() == {"0.l0": 3 * T * B, "0.l1": 3 * T * B}
    assert not any(t.requires_grad for t in (gates._sums["0.l0"].value,))


def test_every_nth_call_is_used_and_clear_resets_the_statistics():
    layer = nn.GRU(INPUT, HIDDEN)
    statistics = watch(layer, every=3)
    for k in range(7):
        layer(torch.randn(T, B, INPUT) + k)
    assert statistics.counts() == {"l0": 3 * T * B}
    statistics.clear()
    assert statistics.means() == {}
    layer(torch.randn(T, B, INPUT))
    assert statistics.counts() == {"l0": T * B}


def test_removing_the_hooks_restores_the_model():
    model = nn.ModuleDict({"a": LSTM(INPUT, HIDDEN), "b": nn.LSTM(INPUT, HIDDEN)})
    with watch(model) as statistics:
        pass
    for layer in model.values():
        layer(torch.randn(T, B, INPUT))
        assert not layer._forward_hooks
    assert model["a"].observers == ()
    assert statistics.counts() == {}


LAYERS = {"nn.LSTM": nn.LSTM, "LSTM": functools.partial(LSTM, mechanism="UR")}


def without_autocast(layer, x):
    """The reason why torch itself cannot run the layer in bfloat16 here, None if it can."""
    try:
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
    except RuntimeError as error:  # oneDNN has no such LSTM for processors without AVX-512
        return f"torch has no {type(layer).__name__} under autocast on this processor: {error}"
    return None


@pytest.mark.parametrize("kind", LAYERS)
def test_inference_mode_gives_the_gates_of_training(kind):
    layer, x = LAYERS[kind](INPUT, HIDDEN, 2).eval(), torch.randn(T, B, INPUT)
    with watch(layer) as inference, torch.inference_mode():
        layer(x)
    with watch(layer) as training:
        layer(x)
    for name, gate in training.means().items():
        np.testing.assert_allclose(gate.value, inference.means()[name].value, rtol=1e-6)
        assert gate.value.dtype == np.float64


@pytest.mark.parametrize("kind", LAYERS)
def test_autocast_changes_the_gates_by_rounding_alone(kind):
    layer, x = LAYERS[kind](INPUT, HIDDEN, 2).eval(), torch.randn(T, B, INPUT)
    if kind == "nn.LSTM" and (reason := without_autocast(layer, x)):
        pytest.skip(reason)
    with watch(layer) as single:
        layer(x)
    with watch(layer) as half, torch.autocast("cpu", torch.bfloat16):
        layer(x)
    for name, gate in half.means().items():
        np.testing.assert_allclose(gate.value, single.means()[name].value, rtol=2e-2)
        assert gate.value.dtype == np.float64


def test_gates_of_half_precision_weights_are_float32():
    layer = nn.LSTM(INPUT, HIDDEN, 2, dtype=torch.bfloat16)
    x = torch.randn(T, B, INPUT, dtype=torch.bfloat16)
    with watch(layer) as statistics:
        layer(x)
    single = copy.deepcopy(layer).float()
    with watch(single) as expected:
        single(x.float())
    for name, gate in expected.means().items():
        np.testing.assert_allclose(statistics.means()[name].value, gate.value, rtol=1e-2)


def test_a_parametrized_layer_is_watched_and_a_subclass_is_not():
    class Subclass(nn.LSTM):
        pass

    model = nn.ModuleDict({"subclass": Subclass(2, 2), "normed": nn.LSTM(INPUT, HIDDEN)})
    nn.utils.parametrizations.weight_norm(model["normed"], "weight_hh_l0")
    statistics = watch(model)
    model["normed"](torch.randn(T, B, INPUT))
    assert (set(statistics.means()), statistics.unwatched) == ({"normed.l0"}, ("subclass",))
    with pytest.raises(ValueError, match="Subclass may compute anything"):
        watch(Subclass(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"saturated": 0.6}, r"saturated must be in \(0, 0.5\], got 0.6"),
        ({"saturated": "much"}, "saturated must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        watch(nn.LSTM(2, 2), **settings)


def test_a_model_without_gates_is_refused():
    with pytest.raises(ValueError, match="Linear holds no LSTM, GRU or Minimal"):
        watch(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", [nn.LSTM, LSTM])
def test_two_watches_of_a_layer_are_independent(kind):
    layer = kind(INPUT, HIDDEN)
    with watch(layer) as outer:
        with watch(layer) as inner:
            layer(torch.randn(T, B, INPUT))
        np.testing.assert_array_equal(outer.means()["l0"].value, inner.means()["l0"].value)
        layer(torch.randn(T, B, INPUT))
    assert (outer.counts(), inner.counts()) == ({"l0": 2 * T * B}, {"l0": T * B})


@pytest.mark.parametrize("kind", [nn.LSTM, LSTM])
def test_a_compiled_model_is_watched(kind):
    model = nn.Sequential(kind(INPUT, HIDDEN))
    x = torch.randn(T, B, INPUT)
    with watch(model) as statistics, torch.no_grad():
        torch.compile(model, backend="eager")(x)
    with watch(model) as expected:
        model(x)
    gates = [statistics.means()["0.l0"].value for statistics in (statistics, expected)]
    np.testing.assert_allclose(*gates, rtol=1e-6)
    assert statistics.counts() == expected.counts()
