"""The Keras layers compute what the NumPy backend and, for `standard`, Keras' layers do."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.backend.common import dtypes

from gatecore import backends, mechanism
from gatecore.backends.keras import (
    GRU,
    LSTM,
    GRUCell,
    LSTMCell,
    MinGRU,
    MinGRUCell,
    Minimal,
    MinimalCell,
)
from tests.support import GATINGS, norm_error

LAYERS = {"lstm": LSTM, "gru": GRU, "minimal": Minimal, "mingru": MinGRU}
CELLS = {"lstm": LSTMCell, "gru": GRUCell, "minimal": MinimalCell, "mingru": MinGRUCell}
KERAS = {LSTM: keras.layers.LSTM, GRU: keras.layers.GRU}
CORES = pytest.mark.parametrize("core", LAYERS)
RECURRENT = pytest.mark.parametrize("core", [core for core in LAYERS if core != "mingru"])
TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
MASK = np.array([[1, 1, 0, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]], bool)


@pytest.fixture
def float64_products(monkeypatch):
    """Let Keras multiply float64 in float64: its own cells do so in float32."""
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")


def sequences(dtype="float64", batch=3):
    return np.random.default_rng(5).standard_normal((batch, 5, 4)).astype(dtype)


def randomized(layer, x):
    """The layer, built for x, with every weight random."""
    layer.build(x.shape)
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def numbers(results):
    return [np.asarray(ops.convert_to_numpy(part)) for part in keras.tree.flatten(results)]


def by_numpy(layer, x, state=None):
    """The outputs (batch, time, units) and the last states by the NumPy backend."""
    params = {k: np.asarray(ops.convert_to_numpy(v)) for k, v in layer.cell.parameters().items()}
    run = getattr(backends.load("numpy"), layer.core)
    output, state, _ = run(params, np.swapaxes(x, 0, 1).copy(), state, layer.mechanism)
    return [np.swapaxes(output, 0, 1), *(state if isinstance(state, tuple) else (state,))]


def assert_equal(results, expected, tolerance=1e-12):
    for part, exact in zip(numbers(results), expected, strict=True):
        assert norm_error(part, exact) < tolerance


@CORES
@pytest.mark.parametrize("gating", ["UR", "UR untied", "OM/2", "standard"])
def test_a_layer_is_the_numpy_backend(core, gating):
    x = sequences()
    layer = LAYERS[core](6, GATINGS[gating], return_sequences=True, return_state=True,
                         dtype="float64")  # fmt: skip
    randomized(layer, x)
    assert_equal(layer(x), by_numpy(layer, x))


def test_a_mingru_whose_candidate_is_a_tanh_is_the_numpy_backends():
    x = sequences()
    layer = randomized(MinGRU(6, "OM", candidate="tanh", return_sequences=True, return_state=True,
                              dtype="float64"), x)  # fmt: skip
    run = backends.load("numpy").mingru
    params = {k: np.asarray(ops.convert_to_numpy(v)) for k, v in layer.cell.parameters().items()}
    output, last, _ = run(params, np.swapaxes(x, 0, 1).copy(), None, "OM", candidate="tanh")
    assert_equal(layer(x), [np.swapaxes(output, 0, 1), last])


@CORES
def test_sequences_without_steps_are_refused(core):
    for settings in ({}, {"dropout": 0.5}):
        with pytest.raises(ValueError, match=r"at least one step, got shape \(3, 0, 4\)"):
            LAYERS[core](6, **settings)(sequences("float32")[:, :0], training=True)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", KERAS)
def test_a_standard_layer_is_keras_own_with_the_same_weights(kind, dtype, float64_products):
    x = sequences(dtype)
    settings = {"return_sequences": True, "return_state": True, "dtype": dtype}
    theirs = randomized(KERAS[kind](6, **settings), x)
    ours = kind(6, "standard", **settings)
    ours.build(x.shape)
    ours.set_weights([ops.convert_to_numpy(weight) for weight in theirs.weights])
    assert_equal(ours(x), numbers(theirs(x)), TOLERANCES[dtype])
    # of a sequence without any step, Keras' torch and JAX backends differ in the output
    x, mask = x[:2], MASK[:2]
    assert_equal(ours(x, mask=mask), numbers(theirs(x, mask=mask)), TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("kind", KERAS)
def test_training_a_standard_layer_is_training_keras_own(kind, dtype, float64_products):
    x, y = sequences(dtype), np.ones((3, 6), dtype)

    def trained(layer):
        model = keras.Sequential([keras.Input((5, 4)), layer])
        randomized(layer, x)
        model.compile(keras.optimizers.Adam(1e-2), "mse")
        model.fit(x, y, epochs=3, batch_size=3, verbose=0, shuffle=False)
        return numbers(layer.trainable_weights)

    settings = {"dropout": 0.4, "seed": 7, "dtype": dtype}
    assert_equal(trained(kind(6, "standard", **settings)), trained(KERAS[kind](6, **settings)),
                 100 * TOLERANCES[dtype])  # fmt: skip


@CORES
def test_a_masked_step_is_a_step_that_is_not_there(core):
    x = sequences()
    layer = LAYERS[core](6, return_sequences=True, return_state=True, dtype="float64")
    randomized(layer, x)
    hostile = np.where(MASK[..., None], x, np.nan)
    output, *states = numbers(layer(hostile, mask=MASK))
    for row, mask in enumerate(MASK):
        if not mask.any():
            assert not output[row].any()
            continue
        exact, *last = by_numpy(layer, x[row : row + 1, mask])
        assert norm_error(output[row, mask], exact[0]) < 1e-12
        assert_equal([state[row : row + 1] for state in states], last)
    before = output[:, :-1][~MASK[:, 1:]]
    assert np.array_equal(output[:, 1:][~MASK[:, 1:]], before)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"mask must have shape \(batch, time\) \(3, 5\), got"):
        GRU(6)(sequences("float32"), mask=MASK[:2])


@CORES
def test_a_layer_masked_is_its_cell_masked_by_keras(core):
    x, mask = sequences()[:2], MASK[:2]
    for settings in ({"go_backwards": True}, {"zero_output_for_mask": True}):
        layer = LAYERS[core](6, return_sequences=True, dtype="float64", **settings)
        randomized(layer, x)
        theirs = keras.layers.RNN(layer.cell, return_sequences=True, dtype="float64", **settings)
        assert_equal(layer(x, mask=mask), numbers(theirs(x, mask=mask)))
        assert_equal(layer(x), numbers(theirs(x)))


@RECURRENT
def test_recurrent_dropout_is_that_of_the_cell_in_keras_rnn(core):
    x = sequences()
    cell = CELLS[core](6, "OM", recurrent_dropout=0.5, dropout=0.3, seed=4, dtype="float64")
    theirs = randomized(keras.layers.RNN(cell, return_sequences=True, dtype="float64"), x)
    ours = LAYERS[core](6, "OM", recurrent_dropout=0.5, dropout=0.3, seed=4, dtype="float64",
                        return_sequences=True)  # fmt: skip
    randomized(ours, x)
    assert_equal(ours(x, training=True), numbers(theirs(x, training=True)))
    assert_equal(ours(x), numbers(theirs(x)))
    assert norm_error(numbers(ours(x, training=True))[0], numbers(ours(x))[0]) > 1e-2


@CORES
def test_the_initial_state_is_used_and_the_last_one_returned(core):
    x = sequences()
    layer = LAYERS[core](6, return_sequences=True, return_state=True, dtype="float64")
    randomized(layer, x)
    whole = numbers(layer(x))
    first, *states = layer(x[:, :2])
    rest, *last = layer(x[:, 2:], initial_state=states)
    joined = np.concatenate([*numbers(first), *numbers(rest)], axis=1)
    assert_equal([joined, *last], whole)


@CORES
def test_a_stateful_layer_goes_on_where_it_ended(core):
    x = sequences()
    whole = LAYERS[core](6, return_sequences=True, dtype="float64")
    parts = LAYERS[core](6, return_sequences=True, dtype="float64", stateful=True)
    randomized(whole, x), randomized(parts, x)
    outputs = [np.array(numbers(parts(part))[0]) for part in (x[:, :2], x[:, 2:])]
    assert norm_error(np.concatenate(outputs, axis=1), numbers(whole(x))[0]) < 1e-12
    parts.reset_states()
    assert_equal(parts(x[:, :2]), outputs[:1])
    with pytest.raises(ValueError, match="batch size"):
        parts(sequences(batch=2))


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="in Keras' JAX trainer no layer keeps its state"
)
def test_a_stateful_layer_is_trained():
    layer = GRU(6, stateful=True)
    model = keras.Sequential([keras.Input(batch_shape=(3, 5, 4)), layer])
    model.compile("sgd", "mse")
    model.fit(sequences("float32"), np.ones((3, 6)), epochs=2, batch_size=3, verbose=0)
    assert numbers(layer.states)[0].any()


def test_both_directions_read_the_mask():
    x = sequences()
    layer = LSTM(6, return_sequences=True, dtype="float64")
    both = keras.layers.Bidirectional(layer, dtype="float64")
    both = randomized(both, x)
    output = numbers(both(x, mask=MASK))[0]
    there, back = output[..., :6], output[..., 6:]
    assert norm_error(there[0, MASK[0]], by_numpy(both.forward_layer, x[:1, MASK[0]])[0][0]) < 1e-12
    backwards = by_numpy(both.backward_layer, x[:1, MASK[0]][:, ::-1])[0][0, ::-1]
    assert norm_error(back[0, MASK[0]], backwards) < 1e-12
    assert not output[~MASK].any()


def test_a_stack_reads_the_mask_of_an_embedding():
    tokens = np.array([[3, 1, 2, 0, 0], [1, 2, 3, 1, 2]])
    model = keras.Sequential([keras.layers.Embedding(4, 4, mask_zero=True),
                              GRU(6, return_sequences=True), LSTM(6, "OM")])  # fmt: skip
    padded = numbers(model(tokens))[0]
    assert_equal(model(tokens[:1, :3]), [padded[:1]], 1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "bfloat16"])
@RECURRENT
def test_in_half_precision_gates_and_states_are_float32(core, policy):
    # a forget gate of 1 - 1e-4 is 1 in bfloat16, and in float16 its state would not move
    slow = mechanism("standard", forget_bias=9.2)
    layer = LAYERS[core](4, slow, dtype=policy, kernel_initializer="ones",
                         recurrent_initializer="zeros")  # fmt: skip
    x = np.full((1, 1000, 1), 0.5, "float32")
    output = layer(x)
    assert keras.backend.standardize_dtype(output.dtype) == policy.removeprefix("mixed_")
    wide = randomized(LAYERS[core](4, slow), x)
    wide.set_weights([ops.convert_to_numpy(ops.cast(w, "float32")) for w in layer.weights])
    half = np.asarray(ops.convert_to_numpy(ops.cast(output, "float32")))
    assert norm_error(half, numbers(wide(x))[0]) < 2**-7


def test_without_a_bias_it_is_zero():
    x = sequences()
    layer, zero = (randomized(GRU(6, dtype="float64", use_bias=bias), x) for bias in (False, True))
    assert len(layer.trainable_weights) == 2
    zero.cell.bias.assign(np.zeros(zero.cell.bias.shape))
    assert_equal(layer(x), numbers(zero(x)))


@CORES
def test_training_lowers_the_loss(core):
    keras.utils.set_random_seed(0)
    x = np.random.default_rng(0).random((64, 8, 1)).astype("float32")
    model = keras.Sequential([LAYERS[core](16, dropout=0.01), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-2), "mse")
    losses = model.fit(x, x.sum(axis=1), epochs=8, batch_size=16, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 4


def test_the_initial_bias_is_the_mechanisms():
    layers = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        layers.append(LSTM(500, "UR", recurrent_initializer="zeros"))
    layers.append(LSTM(500, "UR", recurrent_initializer="zeros"))
    for layer in layers:
        layer.build((1, 5, 1))
    first, again, *others = (numbers(layer.cell.bias)[0] for layer in layers)
    refine, forget, *rest = np.split(first, 4)
    assert abs(np.sort(1 / (1 + np.exp(-forget))) - np.linspace(0, 1, 500)).max() < 0.1
    assert not np.array_equal(refine, forget)
    assert not np.any(rest)
    assert np.array_equal(first, again)
    assert not any(np.array_equal(first, other) for other in others)
    zeros = GRU(4, bias_initializer="zeros")
    zeros.build((1, 5, 1))
    assert not numbers(zeros.cell.bias)[0].any()
    standard = GRU(4, "standard")  # columns z r h, as Keras'; a row each for input and state
    standard.build((1, 5, 1))
    assert np.array_equal(numbers(standard.cell.bias)[0], [[1] * 4 + [0] * 8, [0] * 12])


def initial_bias(layer):
    layer.build((1, 5, 1))
    return numbers(layer.cell.bias)[0]


@pytest.mark.parametrize("unit_forget_bias", [True, False])
@pytest.mark.parametrize("initializer", [keras.initializers.Constant(0.5), "zeros"])
def test_an_initializer_sets_the_biases_of_a_standard_lstm_as_keras_does(
    initializer, unit_forget_bias
):
    settings = {"bias_initializer": initializer, "unit_forget_bias": unit_forget_bias}
    theirs = initial_bias(keras.layers.LSTM(4, **settings))
    assert np.array_equal(initial_bias(LSTM(4, "standard", **settings)), theirs)


def test_an_initializer_leaves_an_lstm_the_biases_that_the_mechanism_sets():
    biases = []
    for initializer in (None, keras.initializers.Constant(0.5)):
        keras.utils.set_random_seed(0)
        biases.append(initial_bias(LSTM(4, "UR", bias_initializer=initializer)))
    alone, beside = biases
    assert np.array_equal(beside, np.where(alone == 0, 0.5, alone).astype("float32"))
    without = LSTM(4, "UR", unit_forget_bias=False)
    assert not initial_bias(without).any()
    assert without.get_config()["unit_forget_bias"] is False
