"""Settings and weights of the Keras layers: saved, loaded, converted, and refused."""

import keras
import numpy as np
import pytest
from keras import ops

from gatecore import mechanism
from gatecore.backends.keras import GRU, LSTM, GRUCell, LSTMCell, MinGRU, MinGRUCell, Minimal
from tests.support import norm_error

KERAS = {LSTM: keras.layers.LSTM, GRU: keras.layers.GRU}
X = np.random.default_rng(5).standard_normal((3, 5, 4)).astype("float32")


def built(layer, seed=0):
    layer.build(X.shape)
    rng = np.random.default_rng(seed)
    for weight in layer.trainable_weights:
        weight.assign(0.5 * rng.standard_normal(weight.shape))
    return layer


def numbers(tensors):
    return [np.array(ops.convert_to_numpy(tensor)) for tensor in tensors]


def model_of(*layers):
    return keras.Sequential([keras.Input(X.shape[1:]), *layers])


def test_a_saved_model_is_loaded_with_equal_outputs(tmp_path):
    downsized = mechanism("OM", downsize=2)
    model = model_of(
        keras.layers.Bidirectional(LSTM(6, downsized, return_sequences=True, dropout=0.1)),
        GRU(6, mechanism("C", t_max=99.0), return_sequences=True, bias_regularizer="l2"),
        keras.layers.RNN([LSTMCell(6, "OR"), GRUCell(6)], return_sequences=True),
        MinGRU(6, "OR", candidate="tanh", return_sequences=True),
        Minimal(6, mechanism("UR", tied=False), kernel_constraint="max_norm"),
    )
    expected = model.predict(X, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert np.array_equal(loaded.predict(X, verbose=0), expected)
    assert loaded.layers[0].forward_layer.mechanism == downsized
    assert loaded.layers[1].get_config() == model.layers[1].get_config()
    assert loaded.layers[2].cell.cells[0].mechanism == mechanism("OR")
    assert loaded.layers[3].cell.candidate == "tanh"
    assert loaded.layers[4].mechanism == mechanism("UR", tied=False)


@pytest.mark.parametrize("kind", KERAS)
def test_a_standard_layer_loads_a_file_of_keras_own(kind, tmp_path):
    theirs, ours = model_of(built(KERAS[kind](6))), model_of(kind(6, "standard"))
    theirs.save_weights(tmp_path / "rnn.weights.h5")
    ours.load_weights(tmp_path / "rnn.weights.h5")
    assert norm_error(ours.predict(X, verbose=0), theirs.predict(X, verbose=0)) < 1e-6


FOREIGN = [("UR", "OR"), ("OM", "UM"), ("standard", "UR"), ("UR", "standard"),
           (mechanism("OM", downsize=2), mechanism("OM", downsize=3))]  # fmt: skip


@pytest.mark.parametrize(("saved", "name"), FOREIGN, ids=str)
def test_weights_of_another_mechanism_are_refused_before_any_is_changed(saved, name, tmp_path):
    source, target = built(LSTM(6, saved)), built(LSTM(6, name), seed=1)
    before = numbers(target.weights)
    model_of(source).save_weights(tmp_path / "rnn.weights.h5")
    for copy in (
        lambda: target.set_weights(numbers(source.weights)),
        lambda: target.cell.set_weights(numbers(source.weights)),
        lambda: model_of(target).load_weights(tmp_path / "rnn.weights.h5"),
    ):
        with pytest.raises(ValueError, match=f"mechanism.*this l.* '{mechanism(name)}'"):
            copy()
    assert all(map(np.array_equal, numbers(target.weights), before))


def test_a_model_refuses_weights_of_another_mechanism():
    source, target = model_of(built(LSTM(6, "OR"))), model_of(built(LSTM(6, "UR")))
    with pytest.raises(ValueError, match="the weights are of mechanism 'OR'"):
        target.set_weights(numbers(source.weights))
    source = model_of(built(GRU(6)))
    with pytest.raises(ValueError, match="shape"):
        target.set_weights(numbers(source.weights))


def test_weights_of_another_candidate_are_refused():
    source, target = built(MinGRU(6, candidate="tanh")), built(MinGRU(6))
    with pytest.raises(ValueError, match="mingru_tanh sigmoid refine 1"):
        target.set_weights(numbers(source.weights))


@pytest.mark.parametrize("kind", [MinGRU, MinGRUCell])
@pytest.mark.parametrize("settings", [{"recurrent_dropout": 0.1}, {"activation": "tanh"},
                                      {"recurrent_initializer": "zeros"}])  # fmt: skip
def test_a_mingru_has_no_recurrent_settings(kind, settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))}=.* is not supported"):
        kind(6, **settings)
    with pytest.raises(ValueError, match="candidate"):
        kind(6, candidate="relu")


def test_what_computes_the_same_interchanges():
    for pair in (("standard", "C"), ("U", "standard")):
        source, target = (built(GRU(6, name)) for name in pair)
        target.set_weights(numbers(source.weights))
    layer = built(LSTM(6, mechanism("UR", refine_bias="opposed")))
    layer.set_weights(numbers(built(LSTM(6)).weights))


def test_averaged_and_half_precision_weights_are_loaded():
    layer, other = built(Minimal(6, "OM")), built(Minimal(6, "OM"), seed=1)
    pairs = zip(numbers(layer.weights), numbers(other.weights), strict=True)
    layer.set_weights([np.float16(0.1 * a + 0.9 * b) for a, b in pairs])
    assert norm_error(*numbers([layer.cell.kernel, other.cell.kernel])) < 1
    code = numbers([layer.cell.mechanism_code])[0]
    assert np.array_equal(code, np.round(code))


@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
@pytest.mark.parametrize("kind", KERAS)
def test_from_keras_copies_what_both_have(kind, name):
    theirs = built(KERAS[kind](6, go_backwards=True, kernel_regularizer="l2", unroll=True))
    ours = kind.from_keras(theirs, name)
    assert (ours.go_backwards, ours.name) == (True, theirs.name)
    assert ours.cell.kernel_regularizer.get_config() == keras.regularizers.L2().get_config()
    if name == "standard":
        assert ours.initialised == ()
        assert norm_error(*numbers([ours(X), theirs(X)])) < 1e-6
    first = slice(6, 12) if kind is LSTM else slice(6)  # the forget gate
    for new, old in zip(numbers(ours.weights), numbers(theirs.weights), strict=False):
        assert np.array_equal(new[..., first], old[..., first])


def test_from_keras_leaves_ordered_gates_new_and_opposes_refine_biases():
    theirs = built(keras.layers.LSTM(6))
    assert LSTM.from_keras(theirs, "O").initialised == ("input", "forget")
    opposed = LSTM.from_keras(theirs, mechanism("UR", refine_bias="opposed"))
    refine, forget, *_ = np.split(numbers([opposed.cell.bias])[0], 4)
    assert np.array_equal(refine, -forget)
    gru = GRU.from_keras(built(keras.layers.GRU(6)), mechanism("UR", refine_bias="opposed"))
    bias = numbers([gru.cell.bias])[0]
    assert norm_error(bias[0, 18:], -bias[:, :6].sum(axis=0)) < 1e-6


def test_from_keras_converts_a_model_by_clone_model():
    model = model_of(keras.layers.LSTM(6, return_sequences=True), keras.layers.Dense(2))

    def convert(layer):
        known = isinstance(layer, keras.layers.LSTM)
        return LSTM.from_keras(layer) if known else type(layer).from_config(layer.get_config())

    converted = keras.models.clone_model(model, clone_function=convert)
    assert converted.layers[0].mechanism == mechanism("UR")
    assert converted(X).shape == (3, 5, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"unroll": True}, "unroll must be False, got True"),
        ({"activation": "relu"}, "activation must be 'tanh', got 'relu'"),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation must be 'sigmoid'"),
        ({"unit_forget_bias": True}, "unit_forget_bias"),  # a GRU's is not Keras' either
        ({"use_cudnn": False}, "use_cudnn=False is not supported"),
        ({"implementation": 1}, "implementation=1 is not supported"),
        ({"reset_after": False}, "reset_after must be True"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\)"),
        ({"recurrent_dropout": -1}, "recurrent_dropout must lie in"),
        ({"stateful": 1}, "stateful must be True or False"),
        ({"use_bias": None}, "use_bias must be True or False"),
        ({"units": 0}, "units must be at least 1"),
        ({"units": 2.5}, "units must be an integer"),
        ({"mechanism": "URR"}, "did you mean 'UR'"),
        ({"mechanism": mechanism("OM", downsize=4)}, "not divisible"),
        ({"bias_start": 1}, "bias_start"),
        ({"seed": 1.5}, "seed"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_that_is_not_supported_is_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        GRU(**{"units": 6, **settings})


def test_keras_names_of_the_supported_functions_are_taken():
    LSTM(6, activation="tanh", recurrent_activation=keras.activations.sigmoid)
    GRU(6, activation=keras.activations.tanh, reset_after=True, unroll=False)


def test_from_keras_refuses_what_it_cannot_compute():
    with pytest.raises(ValueError, match="reset_after must be True"):
        GRU.from_keras(keras.layers.GRU(6, reset_after=False))
    with pytest.raises(ValueError, match="activation must be 'tanh'"):
        LSTM.from_keras(keras.layers.LSTM(6, activation="relu"))
    with pytest.raises(TypeError, match=r"layer must be a keras\.layers\.LSTM, got GRU"):
        LSTM.from_keras(keras.layers.GRU(6))


@pytest.mark.parametrize("kind", [LSTM, GRUCell])
def test_another_backend_is_refused(kind, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "tensorflow")
    with pytest.raises(ValueError, match="backends torch and jax, got 'tensorflow'"):
        kind(6)
