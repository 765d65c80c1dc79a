"""Dropout of an embedding's outputs, on every backend that is installed."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends
from gatecore._checks import unused
from gatecore.backends.common.learner import draw

T, B, W, H = 5, 4, 6, 7
RATE = 0.3
SPEC = ModelSpec(input="embedding", input_size=T * B, output_size=3, hidden_size=H,
                 embedding_size=W, core="gru", embedding_dropout=RATE)  # fmt: skip
LOCKED = dataclasses.replace(SPEC, locked_dropout=True)
TIED = ModelSpec(input="embedding", input_size=T * B, output_size=T * B, hidden_size=W, tied=True,
                 embedding_dropout=RATE, zoneout=(0.2, 0.1), streams=B)  # fmt: skip
NEEDS = {"numpy": "numpy", "torch": "torch", "jax": "optax"}


@pytest.fixture(params=NEEDS)
def backend(request):
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"{NEEDS[request.param]} is not installed")
    return backends.load(request.param)


def batch(rng, spec=SPEC):
    """Every symbol once, so that each has a row of the embedding's gradient to itself."""
    tokens = rng.permutation(T * B).reshape(T, B)
    return Batch(tokens, rng.integers(0, spec.output_size, (T, B)))


def kept(backend, spec, data):
    """Which outputs of the embedding reach the loss of a first training step, and that loss.

    With Adam's eps and rate at 1e12 a first step subtracts the gradient from a weight of 0.
    """
    learner = backend.Learner(spec, seed=5, eps=1e12)
    state = learner.state_dict()
    weight = state["parameters.embedding.weight"]
    at_step = learner.step(data, learning_rate=0.0)["loss"]
    second = backend.Learner(spec, seed=5, eps=1e12)
    second.step(data, learning_rate=1e12)
    change = second.state_dict()["parameters.embedding.weight"] - weight
    return (change != 0)[data.inputs], at_step, weight


@pytest.mark.parametrize("spec", [SPEC, LOCKED], ids=["single outputs", "locked"])
def test_the_rows_reach_the_core_dropped_or_scaled_up(backend, spec, rng):
    """The loss is that of a model that reads the rows themselves, with the same other weights."""
    data = batch(rng, spec)
    mask, loss, weight = kept(backend, spec, data)
    rows = np.where(mask, weight[data.inputs] / (1 - RATE), 0)
    dense = ModelSpec(input="dense", input_size=W, output_size=3, hidden_size=H, core="gru")
    reader = backend.Learner(dense)
    state = backend.Learner(spec, seed=5).state_dict()
    reader.load_state_dict({k: v for k, v in state.items() if "embedding" not in k})
    expected = reader.evaluate([data._replace(inputs=rows.astype(np.float32))])["loss"]
    assert loss == pytest.approx(expected, rel=1e-6)
    assert 0 < (~mask).mean() < 2 * RATE
    assert (mask == mask[0]).all() == spec.locked_dropout
    assert not (mask == mask[:, :1]).all()


@pytest.mark.parametrize("spec", [SPEC, LOCKED, TIED], ids=["plain", "locked", "tied, carried"])
def test_the_masks_are_those_of_the_numpy_learner(backend, spec, rng):
    learners = [module.Learner(spec, seed=3) for module in (backend, backends.load("numpy"))]
    for _ in range(3):
        data = batch(rng, spec)
        one, other = (learner.step(data, learning_rate=1e-2) for learner in learners)
        assert one == pytest.approx(other, rel=1e-5)


def test_evaluation_and_gates_drop_nothing(backend, rng):
    data = batch(rng)
    plain = dataclasses.replace(SPEC, embedding_dropout=0.0)
    one, other = (backend.Learner(spec, seed=1) for spec in (SPEC, plain))
    assert one.evaluate([data]) == other.evaluate([data])
    np.testing.assert_array_equal(one.gates(data).value, other.gates(data).value)
    assert one.step(data, learning_rate=0.0) != other.step(data, learning_rate=0.0)


def test_gradients_match_finite_differences(rng):
    """Of a tied embedding, whose rows are dropped as inputs and not as the output layer."""
    numpy, data = backends.load("numpy"), batch(rng, TIED)
    settings = {"seed": 1, "dtype": "float64"}
    learner = numpy.Learner(TIED, eps=1e12, **settings)
    before = learner.parameters["embedding.weight"].copy()
    learner.step(data, learning_rate=1e12)
    gradient = before - learner.parameters["embedding.weight"]
    direction = rng.standard_normal(before.shape)

    def loss(amount):
        moved = numpy.Learner(TIED, **settings)
        moved.parameters["embedding.weight"] += amount * direction
        return moved.step(data, learning_rate=0.0)["loss"]

    expected = (loss(1e-6) - loss(-1e-6)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-6)


def test_the_masks_follow_all_other_draws_of_a_step(rng):
    """A model without embedding dropout has the noise that it had in earlier versions."""
    noisy = dataclasses.replace(SPEC, zoneout=(0.0, 0.2), head=(5,), dropout=0.4)
    plain = dataclasses.replace(noisy, embedding_dropout=0.0)
    with_it, without = (draw(s, batch(rng), np.random.default_rng(2)) for s in (noisy, plain))
    assert without.embedding is None
    np.testing.assert_array_equal(with_it.dropout[0], without.dropout[0])
    np.testing.assert_array_equal(with_it.zoneout[0][0], without.zoneout[0][0])


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"embedding_dropout": 1.0}, ValueError, r"embedding_dropout must lie in \[0, 1\)"),
        ({"embedding_dropout": "half"}, TypeError, "embedding_dropout must be a number"),
        ({"locked_dropout": 1}, TypeError, "locked_dropout must be True or False"),
        ({"input": "one_hot", "embedding_size": None}, ValueError,
         "embedding_dropout is for input='embedding', not 'one_hot'"),
    ],
)  # fmt: skip
def test_errors_name_the_field(changes, error, complaint):
    with pytest.raises(error, match=complaint):
        dataclasses.replace(SPEC, **changes)


def test_a_lock_without_dropout_has_no_effect():
    assert "locked_dropout" in unused(dataclasses.replace(LOCKED, embedding_dropout=0.0))
    assert "locked_dropout" not in unused(LOCKED)
