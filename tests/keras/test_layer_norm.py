"""Keras layers and cells with layer normalization."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.testing import TestCase

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

X = np.random.default_rng(5).standard_normal((3, 5, 4))
PAIRS = {LSTM: LSTMCell, GRU: GRUCell, Minimal: MinimalCell, MinGRU: MinGRUCell}
LAYERS = pytest.mark.parametrize("kind", PAIRS)
GAINS = {LSTM: 4, GRU: 2, Minimal: 2, MinGRU: 1}  # their number


def randomized(layer):
    if not layer.built:
        layer.build(X.shape)
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def numbers(tensors):
    return [np.array(ops.convert_to_numpy(tensor)) for tensor in tensors]


@LAYERS
@pytest.mark.parametrize("gating", ["UR", "OM/2"])
def test_a_layer_is_the_numpy_backend(kind, gating):
    layer = randomized(kind(6, GATINGS[gating], layer_norm=True, return_sequences=True,
                            return_state=True, dtype="float64"))  # fmt: skip
    params = {k: np.array(ops.convert_to_numpy(v)) for k, v in layer.cell.parameters().items()}
    run = getattr(backends.load("numpy"), layer.core)
    output, state, _ = run(params, np.swapaxes(X, 0, 1).copy(), None, layer.mechanism)
    state = state if isinstance(state, tuple) else (state,)
    for part, exact in zip(numbers(layer(X)), (np.swapaxes(output, 0, 1), *state), strict=True):
        assert norm_error(part, exact) < 1e-12


@LAYERS
def test_a_layer_is_its_cell_in_keras_rnn(kind):
    settings = {"layer_norm": True, "dtype": "float64", "seed": 4, "dropout": 0.3}
    if kind is not MinGRU:
        settings["recurrent_dropout"] = 0.5
    layer = randomized(kind(6, "OM", return_sequences=True, **settings))
    cell = PAIRS[kind](6, "OM", **settings)
    theirs = randomized(keras.layers.RNN(cell, return_sequences=True, dtype="float64"))
    for training in (False, True):
        results = numbers([layer(X, training=training), theirs(X, training=training)])
        assert norm_error(*results) < 1e-12


@LAYERS
def test_the_gains_begin_at_one_and_the_biases_at_the_mechanisms(kind):
    layer = kind(6, mechanism("standard", forget_bias=3.0), layer_norm=True)
    layer.build(X.shape)
    weights = {weight.name: numbers([weight])[0] for weight in layer.trainable_weights}
    gains = {name: value for name, value in weights.items() if name.startswith("norm_")}
    assert len(gains) == GAINS[kind]
    for name, gain in gains.items():
        assert np.array_equal(gain, np.full_like(gain, name != "norm_c_bias"))
    assert (weights["bias"] == 3).sum() == 6


@LAYERS
def test_keras_own_test_of_a_layer(kind):
    TestCase().run_layer_test(
        kind, init_kwargs={"units": 3, "layer_norm": True}, input_shape=(3, 2, 4),
        supports_masking=True, expected_output_shape=(3, 3),
        expected_num_trainable_weights=(2 if kind is MinGRU else 3) + GAINS[kind],
        expected_num_non_trainable_weights=1,
    )  # fmt: skip


def test_a_saved_model_is_loaded_with_equal_outputs(tmp_path):
    layers = [kind(6, layer_norm=True, return_sequences=True) for kind in PAIRS]
    cells = [kind(6, layer_norm=True) for kind in PAIRS.values()]
    model = keras.Sequential([keras.Input(X.shape[1:]), *layers, keras.layers.RNN(cells)])
    randomized(model)
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(X, verbose=0), expected)
    assert loaded.layers[0].get_config()["layer_norm"] is True
    assert type(layers[0]).from_config(layers[0].get_config()).cell.layer_norm


@LAYERS
def test_layers_with_and_without_refuse_each_others_weights(kind, tmp_path):
    plain, normalized = (keras.Sequential([keras.Input(X.shape[1:]), kind(6, layer_norm=flag)])
                         for flag in (False, True))  # fmt: skip
    for source, target in ((plain, normalized), (normalized, plain)):
        before = numbers(target.weights)
        source.save_weights(tmp_path / "rnn.weights.h5")
        has = source is normalized
        for copy in (
            lambda source=source, target=target: target.layers[0].set_weights(
                numbers(source.weights)
            ),
            lambda target=target: target.load_weights(tmp_path / "rnn.weights.h5"),
        ):
            with pytest.raises(ValueError, match=f"make the layer with .* and layer_norm={has}"):
                copy()
        assert all(map(np.array_equal, numbers(target.weights), before))
    theirs = keras.Sequential([keras.Input(X.shape[1:]), keras.layers.LSTM(6)])
    ours = keras.Sequential([keras.Input(X.shape[1:]), LSTM(6, "standard", layer_norm=True)])
    with pytest.raises(ValueError, match="record no mechanism"):
        ours.layers[0].set_weights(numbers(theirs.weights))


def test_in_half_precision_the_gains_are_float32():
    layer = LSTM(6, layer_norm=True, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(X).dtype) == "bfloat16"
    wide = randomized(LSTM(6, layer_norm=True))
    wide.set_weights(numbers(layer.weights))
    output = numbers([ops.cast(layer(X), "float32")])[0]
    assert norm_error(output, numbers([wide(X)])[0]) < 2**-6


def test_layer_norm_must_be_a_flag():
    with pytest.raises(TypeError, match="layer_norm must be True or False, got 1"):
        GRU(6, layer_norm=1)
