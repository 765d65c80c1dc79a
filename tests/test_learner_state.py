"""A learner's random numbers, its state and its errors."""

import numpy as np
import pytest

from gatecore import ModelSpec, backends
from tests.test_learner import SPECS, B, T, batch_for, build

numpy = backends.load("numpy")
NOISY = {"zoneout": (0.5, 0.1), "head": (8,), "dropout": 0.5}


def equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[key], other[key]) for key in one)


# --- resuming -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_restored_learner_continues_bit_for_bit(name, dtype, rng):
    spec = build(name, **NOISY)
    batches = [batch_for(spec, rng) for _ in range(6)]
    unbroken = numpy.Learner(spec, seed=4, dtype=dtype)
    for batch in batches[:3]:
        unbroken.step(batch, learning_rate=0.01, clip_norm=0.5)
    saved = {key: value.copy() for key, value in unbroken.state_dict().items()}
    expected = [unbroken.step(batch, learning_rate=0.01, clip_norm=0.5) for batch in batches[3:]]
    resumed = numpy.Learner(spec, seed=4, dtype=dtype)
    resumed.load_state_dict(saved)
    assert equal(resumed.state_dict(), saved)
    assert [resumed.step(b, learning_rate=0.01, clip_norm=0.5) for b in batches[3:]] == expected
    assert equal(resumed.parameters, unbroken.parameters)


def test_the_state_is_a_flat_dict_of_copies(rng):
    spec = build("one-hot lstm, last steps read")
    learner = numpy.Learner(spec)
    learner.step(batch_for(spec, rng), learning_rate=0.01)
    state = learner.state_dict()
    assert all(isinstance(key, str) for key in state)
    assert all(isinstance(value, np.ndarray) for value in state.values())
    before = {key: value.copy() for key, value in state.items()}
    learner.step(batch_for(spec, rng), learning_rate=0.01)
    assert equal(state, before)
    assert not equal(learner.state_dict(), before)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop(next(iter(state))),
        lambda state: state.update(extra=np.zeros(1)),
        lambda state: state.update({k: v[:1] for k, v in state.items() if v.ndim}),
        lambda state: state.update({k: v.astype("float64") for k, v in state.items() if v.ndim}),
    ],
)
def test_a_state_that_does_not_fit_raises_and_changes_nothing(change, rng):
    spec = build("one-hot lstm, last steps read")
    learner = numpy.Learner(spec)
    before, state = learner.state_dict(), learner.state_dict()
    change(state)
    with pytest.raises(ValueError, match="state"):
        learner.load_state_dict(state)
    assert equal(learner.state_dict(), before)


# --- seeds and draws ----------------------------------------------------------------------------


def test_initial_parameters_are_the_specifications():
    spec = build("embedding gru, stacked, ReLU layer")
    for dtype in ("float32", "float64"):
        initial = {key: value.astype(dtype) for key, value in spec.initial(5).items()}
        assert equal(numpy.Learner(spec, seed=5, dtype=dtype).parameters, initial)


def test_equal_seeds_train_alike_and_others_do_not(rng):
    spec = build("one-hot lstm, last steps read", **NOISY)
    batch = batch_for(spec, rng)
    one, same, other = (numpy.Learner(spec, seed=seed) for seed in (1, 1, 2))
    losses = [
        [learner.step(batch, learning_rate=0.01)["loss"] for _ in range(3)]
        for learner in (one, same, other)
    ]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]
    assert equal(one.parameters, same.parameters)


def mean_output(learner, batch, steps):
    """The mean output of `steps` training steps that change nothing, and one training output.

    With a far target y the squared error is y² − 2y·output + …: the output can be read off it.
    """
    far = 1e7
    targets = np.full(batch.targets.shape, far)
    batch = batch._replace(targets=targets)
    losses = [learner.step(batch, learning_rate=0.0)["loss"] for _ in range(steps)]
    outputs = [(far**2 - loss) / (2 * far) for loss in losses]
    expected = (far**2 - learner.evaluate([batch])["loss"]) / (2 * far)
    return np.mean(outputs), np.std(outputs) / np.sqrt(steps), expected


def far_reading_spec(**noise):
    return ModelSpec(
        input="dense",
        input_size=2,
        output_size=1,
        hidden_size=8,
        core="lstm",
        mechanism="U",
        loss="squared_error",
        read=1,
        **noise,
    )


@pytest.mark.parametrize("dropout", [0.2, 0.5])
def test_dropout_keeps_the_expectation_of_the_head(dropout, rng):
    spec = far_reading_spec(head=(32,), dropout=dropout)
    learner = numpy.Learner(spec, seed=3, dtype="float64")
    mean, error, expected = mean_output(learner, batch_for(spec, rng), 400)
    assert error > 1e-5  # it does draw
    assert abs(mean - expected) < 4 * error


@pytest.mark.parametrize("zoneout", [(0.0, 0.3), (0.0, 0.7)])
def test_hidden_zoneout_keeps_the_expectation_of_a_first_step(zoneout, rng):
    """From a zero state h' = (1 − d) ĥ, which is linear in the mask d."""
    spec = far_reading_spec(zoneout=zoneout)
    batch = batch_for(spec, rng)
    batch = batch._replace(inputs=batch.inputs[:1])
    learner = numpy.Learner(spec, seed=3, dtype="float64")
    mean, error, expected = mean_output(learner, batch, 400)
    assert error > 1e-5
    assert abs(mean - expected) < 4 * error


def test_without_noise_a_training_step_has_the_loss_of_evaluation(rng):
    spec = far_reading_spec(head=(8,))
    learner, batch = numpy.Learner(spec, dtype="float64"), batch_for(spec, rng)
    loss = learner.step(batch, learning_rate=0.0)["loss"]
    assert loss == learner.evaluate([batch])["loss"]


def test_full_cell_zoneout_keeps_the_cell_at_zero_but_not_the_hidden_state(rng):
    """ĥ is computed from the cell before zoneout."""
    spec = far_reading_spec(zoneout=(1.0, 0.0))
    learner, batch = numpy.Learner(spec, dtype="float64"), batch_for(spec, rng)
    free = numpy.Learner(far_reading_spec(), dtype="float64")
    first = batch._replace(inputs=batch.inputs[:1])
    assert learner.evaluate([first]) == free.evaluate([first])
    assert learner.evaluate([batch]) != free.evaluate([batch])


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "error", "complaint"),
    [
        ("one-hot lstm, last steps read", {"inputs": np.full((T, B), 7)}, ValueError, "inputs"),
        ("one-hot lstm, last steps read", {"inputs": np.full((T, B), -2)}, ValueError, "inputs"),
        ("one-hot lstm, last steps read", {"inputs": np.zeros((T, B))}, TypeError, "inputs"),
        (
            "one-hot lstm, last steps read",
            {"inputs": np.zeros((T, B, 7), int)},
            ValueError,
            "inputs",
        ),
        ("one-hot lstm, last steps read", {"targets": np.full((2, B), 4)}, ValueError, "targets"),
        (
            "one-hot lstm, last steps read",
            {"targets": np.zeros((T, B), int)},
            ValueError,
            "targets",
        ),
        ("one-hot lstm, last steps read", {"targets": np.zeros((2, B))}, TypeError, "targets"),
        ("dense minimal, two ReLU layers", {"inputs": np.zeros((T, B, 3))}, ValueError, "inputs"),
        ("dense minimal, two ReLU layers", {"targets": np.zeros((1, B))}, ValueError, "targets"),
        (
            "dense minimal, two ReLU layers",
            {"resets": np.zeros((T, B))},
            (TypeError, ValueError),
            "resets",
        ),
    ],
)
def test_errors_name_the_array_of_a_batch_that_does_not_fit(name, changes, error, complaint, rng):
    spec = build(name)
    batch = batch_for(spec, rng)._replace(**changes)
    with pytest.raises(error, match=complaint):
        numpy.Learner(spec).step(batch, learning_rate=0.1)


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"dtype": "float16"}, ValueError, "dtype"),
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 0.5}, TypeError, "seed"),
        ({"eps": "small"}, TypeError, "eps"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas"),
    ],
)
def test_errors_name_the_setting(settings, error, complaint):
    with pytest.raises(error, match=complaint):
        numpy.Learner(build("one-hot lstm, last steps read"), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"learning_rate": 0.1, "clip_norm": 0.0},
    ],
)
def test_errors_name_the_rate(settings, rng):
    spec = build("one-hot lstm, last steps read")
    with pytest.raises(ValueError, match=r"learning_rate|clip_norm"):
        numpy.Learner(spec).step(batch_for(spec, rng), **settings)
