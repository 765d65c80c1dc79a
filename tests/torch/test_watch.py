"""What `watch` collects, against gates that are computed step by step from the model's weights."""

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
    Minimal,
    MinimalCell,
    convert,
    watch,
)
from gatecore.cells import CELLS

T, B, INPUT, HIDDEN = 7, 3, 4, 6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(x, weights, h, c):
    """Forget gates (time, hidden) and hidden states of one sequence, from torch's formulas."""
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


def gru_by_hand(x, weights, h, _):
    w_ih, w_hh, b_ih, b_hh = weights
    gates, hidden = [], []
    for step in x:
        (r, z, n), (hr, hz, hn) = np.split(w_ih @ step + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        z = sigmoid(z + hz)
        h = z * h + (1 - z) * np.tanh(n + sigmoid(r + hr) * hn)
        gates.append(z)
        hidden.append(h)
    return np.array(gates), np.array(hidden)


def by_hand(layer, sequences, h0=None, c0=None):
    """All forget gates of each layer and direction of torch's LSTM or GRU, by sequences."""
    run = lstm_by_hand if isinstance(layer, nn.LSTM) else gru_by_hand
    directions = 2 if layer.bidirectional else 1
    xs, found = [s.double().numpy() for s in sequences], {}
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
            found[f"l{number}" + "_reverse" * direction] = np.concatenate(gates)
            outputs.append(hs)
        xs = [np.concatenate(parts, axis=1) for parts in zip(*outputs, strict=True)]
    return found


def assert_same(seen, expected, rtol=1e-9):
    assert seen.means().keys() == expected.keys()
    for name, gates in expected.items():
        mean = seen.means()[name]
        np.testing.assert_allclose(mean.value, gates.mean(axis=0), rtol=rtol)
        np.testing.assert_allclose(mean.complement, (1 - gates).mean(axis=0), rtol=rtol)
        with np.errstate(divide="ignore"):  # an ordered gate's last unit never forgets
            steps = 1 / (1 - gates).mean(axis=0)
        np.testing.assert_allclose(seen.timescales()[name], steps, rtol=rtol)
        assert seen.counts()[name] == len(gates)


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
def test_torchs_layers_with_and_without_states_and_batch(kind, settings):
    layer = kind(INPUT, HIDDEN, dtype=torch.float64, **settings)
    x = inputs(T, B, INPUT)
    with watch(layer) as seen:
        layer(x)
    assert_same(seen, by_hand(layer, x.unbind(1)))

    count = layer.num_layers * (1 + layer.bidirectional)
    h, c = inputs(count, B, HIDDEN), inputs(count, B, HIDDEN)
    layer.batch_first = True
    with watch(layer) as seen:
        layer(x.transpose(0, 1), hx=(h, c) if kind is nn.LSTM else h)
    assert_same(seen, by_hand(layer, x.unbind(1), h, c))

    with watch(layer) as seen:
        layer(x[:, 0])
    assert_same(seen, by_hand(layer, [x[:, 0]]))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("given", [False, True], ids=["", "states"])
def test_packed_sequences_count_as_far_as_they_go(kind, given):
    layer = kind(INPUT, HIDDEN, num_layers=2, bidirectional=True, dtype=torch.float64)
    sequences = [inputs(length, INPUT) for length in (2, 7, 4)]
    h, c = inputs(4, 3, HIDDEN), inputs(4, 3, HIDDEN)
    states = (h, c) if kind is nn.LSTM else h
    packed = pack_sequence(sequences, enforce_sorted=False)
    with watch(layer) as seen:
        layer(packed, states if given else None)
    expected = by_hand(layer, sequences, *((h, c) if given else ()))
    assert_same(seen, expected)
    assert set(seen.counts().values()) == {2 + 7 + 4}


@pytest.mark.parametrize("settings", [{"bias": False}, {"proj_size": 2, "num_layers": 2}], ids=str)
def test_an_lstm_without_bias_or_with_a_projection(settings):
    layer = nn.LSTM(INPUT, HIDDEN, dtype=torch.float64, **settings)
    x = inputs(T, B, INPUT)
    with watch(layer) as seen:
        layer(x)
    twin = copy.deepcopy(layer)
    if not layer.bias:
        zero = torch.zeros(4 * HIDDEN, dtype=torch.float64)
        weights = [[*layer.all_weights[0], zero, zero]]
        twin = type("Twin", (nn.LSTM,), {"all_weights": weights})(INPUT, HIDDEN)
    assert_same(seen, by_hand(twin, x.unbind(1)))


def test_dropout_between_torchs_layers_is_left_out_and_draws_nothing_new():
    layer = nn.LSTM(INPUT, HIDDEN, num_layers=2, dropout=0.5, dtype=torch.float64)
    x = inputs(T, B, INPUT)
    torch.manual_seed(1)
    expected = layer(x)[0]
    torch.manual_seed(1)
    with watch(layer) as seen:
        output = layer(x)[0]
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    assert_same(seen, by_hand(layer, x.unbind(1)))


def gates_of_cell(layer, k, x, states, zeros):
    """gatecore's own layers: the framework-neutral cell, one step after the other."""
    cell = CELLS[layer.core](x.shape[-1], HIDDEN, layer.mechanism)
    own = {short: getattr(layer, name).detach() for short, name in layer._names[k].items()}
    params = {**own, "bias": own["bias_ih"]}
    before = torch.cat([zeros.unsqueeze(0), states[:-1]])
    state = (lambda h: (h, h)) if layer.core == "lstm" else lambda h: h
    gates = [cell.gates(params, x[t], state(before[t]))[0].value for t in range(len(x))]
    return torch.stack(gates).flatten(0, 1).numpy()


@pytest.mark.parametrize("name", ["standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR"])
@pytest.mark.parametrize("kind", [LSTM, GRU, Minimal])
def test_gatecores_layers_with_every_mechanism(kind, name):
    layer = kind(INPUT, HIDDEN, dtype=torch.float64, mechanism=name, two_biases=False)
    x = inputs(T, B, INPUT)
    with watch(layer) as seen:
        output, _ = layer(x)
    zeros = torch.zeros(B, HIDDEN, dtype=torch.float64)
    assert_same(seen, {"l0": gates_of_cell(layer, 0, x, output.detach(), zeros)}, rtol=1e-7)


def test_gatecores_stacks_show_what_training_computed_dropout_and_zoneout_included():
    """Layer by layer with the same draws: two layers of one, and dropout between them by hand."""
    layer = LSTM(INPUT, HIDDEN, 2, dropout=0.5, zoneout=0.3, dtype=torch.float64)
    below = LSTM(INPUT, HIDDEN, zoneout=0.3, dtype=torch.float64)
    above = LSTM(HIDDEN, HIDDEN, zoneout=0.3, dtype=torch.float64)
    for k, single in enumerate((below, above)):
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(single, f"{name}_l0").data.copy_(getattr(layer, f"{name}_l{k}").data)
    x = inputs(T, B, INPUT)
    with watch(layer) as seen:
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
    assert_same(seen, expected)


def test_gatecores_layers_take_packed_sequences_resets_and_both_directions():
    """`standard` computes what torch does: the same weights have the same gates."""
    theirs = nn.LSTM(INPUT, HIDDEN, 2, bidirectional=True, dtype=torch.float64)
    ours = LSTM.from_lstm(theirs, "standard")
    packed = pack_sequence([inputs(n, INPUT) for n in (5, 7, 2)], enforce_sorted=False)
    with watch(theirs) as expected, watch(ours) as seen:
        theirs(packed)
        ours(packed)
    for name, gate in expected.means().items():
        np.testing.assert_allclose(seen.means()[name].value, gate.value, rtol=1e-9)
    assert seen.counts() == expected.counts()

    x, resets = inputs(2 * T, B, INPUT), torch.zeros(2 * T, B, dtype=torch.bool)
    resets[T] = True
    with watch(ours) as seen:
        ours(x, resets=resets)
    with watch(ours) as halves:
        ours(x[:T])
        ours(x[T:])
    for name, gate in halves.means().items():
        np.testing.assert_allclose(seen.means()[name].value, gate.value, rtol=1e-9)


@pytest.mark.parametrize(
    "kind", [nn.LSTMCell, nn.GRUCell, LSTMCell, GRUCell, MinimalCell], ids=lambda k: k.__name__
)
def test_cells_step_by_step(kind):
    cell = kind(INPUT, HIDDEN, dtype=torch.float64)
    steps, state = inputs(T, B, INPUT), None
    core = getattr(cell, "core", "lstm" if kind is nn.LSTMCell else "gru")
    neutral = CELLS[core](INPUT, HIDDEN, getattr(cell, "mechanism", "standard"))
    own = {name: value.detach() for name, value in cell.named_parameters()}
    params = {**own, "bias": own["bias_ih"] + own["bias_hh"]}
    zeros, expected = torch.zeros(B, HIDDEN, dtype=torch.float64), []
    with watch(cell) as seen:
        for x in steps:
            start = state if state is not None else (zeros, zeros) if core == "lstm" else zeros
            expected.append(neutral.gates(params, x, start)[0].value.detach())
            state = cell(x, state)
        cell(x[0])  # unbatched
    expected.append(neutral.gates(params, x[:1], (zeros[:1],) * 2 if core == "lstm" else zeros[:1])[
        0
    ].value.detach())  # fmt: skip
    assert_same(seen, {"": torch.cat(expected).numpy()})


def test_gate_units_and_the_fractions_that_saturate():
    unit = GateUnit(2, "standard").double()
    unit.bias.data.zero_()
    logits = torch.tensor([[-5.0, 0.0], [5.0, 0.0], [5.0, -5.0], [0.0, 5.0]], dtype=torch.float64)
    model = nn.ModuleDict({"highway": unit})
    with watch(model, saturated=0.05) as seen:
        model["highway"](logits)
        model["highway"](logits[0])
    found = seen.saturation()["highway"]
    assert (found.shut.tolist(), found.open.tolist()) == ([0.4, 0.2], [0.4, 0.2])
    expected = sigmoid(np.concatenate([logits.numpy(), logits[:1].numpy()]))
    assert_same(seen, {"highway": expected})


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
        with watch(watched) as seen:
            watched(torch.randn(T, B, 2))
        assert set(seen.means()) == {"encoder.1.l0", "decoder.l0", "decoder.l0_reverse"}
        assert len(gate_histograms({k: (None, v) for k, v in seen.means().items()}).axes) == 6


def test_training_is_bit_for_bit_what_it_is_without():
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


def test_every_so_manieth_call_is_taken_and_clear_starts_anew():
    layer = nn.GRU(INPUT, HIDDEN)
    seen = watch(layer, every=3)
    for k in range(7):
        layer(torch.randn(T, B, INPUT) + k)
    assert seen.counts() == {"l0": 3 * T * B}
    seen.clear()
    assert seen.means() == {}
    layer(torch.randn(T, B, INPUT))
    assert seen.counts() == {"l0": T * B}


def test_removed_hooks_leave_the_model_as_it_was():
    model = nn.ModuleDict({"a": LSTM(INPUT, HIDDEN), "b": nn.LSTM(INPUT, HIDDEN)})
    with watch(model) as seen:
        pass
    for layer in model.values():
        layer(torch.randn(T, B, INPUT))
        assert not layer._forward_hooks
    assert model["a"].observers == ()
    assert seen.counts() == {}


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


def test_half_precision_weights_have_gates_in_single():
    layer = nn.LSTM(INPUT, HIDDEN, 2, dtype=torch.bfloat16)
    x = torch.randn(T, B, INPUT, dtype=torch.bfloat16)
    with watch(layer) as seen:
        layer(x)
    single = copy.deepcopy(layer).float()
    with watch(single) as expected:
        single(x.float())
    for name, gate in expected.means().items():
        np.testing.assert_allclose(seen.means()[name].value, gate.value, rtol=1e-2)


def test_a_parametrized_layer_is_watched_and_a_subclass_is_not():
    class Own(nn.LSTM):
        pass

    model = nn.ModuleDict({"own": Own(2, 2), "normed": nn.LSTM(INPUT, HIDDEN)})
    nn.utils.parametrizations.weight_norm(model["normed"], "weight_hh_l0")
    seen = watch(model)
    model["normed"](torch.randn(T, B, INPUT))
    assert (set(seen.means()), seen.unwatched) == ({"normed.l0"}, ("own",))
    with pytest.raises(ValueError, match="Own may compute anything"):
        watch(Own(2, 2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"every": 0}, "every must be"),
        ({"saturated": 0.6}, r"saturated must be in \(0, 0.5\], got 0.6"),
        ({"saturated": "much"}, "saturated must be"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises((TypeError, ValueError), match=message):
        watch(nn.LSTM(2, 2), **settings)


def test_a_model_without_gates_is_refused():
    with pytest.raises(ValueError, match="Linear holds no LSTM, GRU or Minimal"):
        watch(nn.Linear(2, 2))


@pytest.mark.parametrize("kind", [nn.LSTM, LSTM])
def test_two_watches_see_the_same_and_end_one_by_one(kind):
    layer = kind(INPUT, HIDDEN)
    with watch(layer) as outer:
        with watch(layer) as inner:
            layer(torch.randn(T, B, INPUT))
        np.testing.assert_array_equal(outer.means()["l0"].value, inner.means()["l0"].value)
        layer(torch.randn(T, B, INPUT))
    assert (outer.counts(), inner.counts()) == ({"l0": 2 * T * B}, {"l0": T * B})


@pytest.mark.parametrize("kind", [nn.LSTM, LSTM])
def test_a_compiled_model_is_watched_too(kind):
    model = nn.Sequential(kind(INPUT, HIDDEN))
    x = torch.randn(T, B, INPUT)
    with watch(model) as seen, torch.no_grad():
        torch.compile(model, backend="eager")(x)
    with watch(model) as expected:
        model(x)
    gate, alike = seen.means()["0.l0"], expected.means()["0.l0"]
    np.testing.assert_allclose(gate.value, alike.value, rtol=1e-6)
    assert seen.counts() == expected.counts()
