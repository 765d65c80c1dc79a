"""The torch learner trains as the NumPy learner does: equal draws, equal losses, equal states."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import Batch, ModelSpec, backends, mechanism  # noqa: E402

SPECS = {
    "one-hot lstm": {"input": "one_hot", "input_size": 7, "output_size": 4, "read": 2},
    "embedding gru with everything": {
        "input": "embedding", "input_size": 7, "output_size": 4, "core": "gru", "layers": 2,
        "mechanism": mechanism("OM", downsize=2), "embedding_size": 5, "head": (8,),
        "dropout": 0.3, "zoneout": (0.1, 0.2),
    },
    "dense minimal": {
        "input": "dense", "input_size": 2, "output_size": 3, "core": "minimal", "mechanism": "OR",
        "loss": "squared_error", "read": 1,
    },
    "residual mingru": {
        "input": "one_hot", "input_size": 7, "output_size": 4, "core": "mingru", "layers": 3,
        "candidate": "tanh", "residual": True, "zoneout": (0.0, 0.1),
    },
    "residual gru": {
        "input": "embedding", "input_size": 7, "output_size": 4, "core": "gru", "layers": 2,
        "residual": True, "head": (6,), "dropout": 0.3,
    },
    "one-hot mingru": {
        "input": "one_hot", "input_size": 7, "output_size": 4, "core": "mingru", "layers": 2,
        "zoneout": (0.0, 0.1),
    },
    "dense lstm with zoneout": {
        "input": "dense", "input_size": 2, "output_size": 3, "mechanism": "UM", "layers": 2,
        "loss": "squared_error", "zoneout": (0.5, 0.05),
    },
}  # fmt: skip


def spec(name):
    return ModelSpec(hidden_size=6, **SPECS[name])


def batches(chosen, rng, count, resets=True):
    time, size = 5, 3
    for _ in range(count):
        read = chosen.read or time
        if chosen.input == "dense":
            x = rng.standard_normal((time, size, 2)).astype("f4")
            y = rng.standard_normal((read, size, 3)).astype("f4")
        else:
            lowest = -1 if chosen.input == "one_hot" else 0  # -1: a vector of zeros
            x, y = rng.integers(lowest, 7, (time, size)), rng.integers(-1, 4, (read, size))
        yield Batch(x, y, rng.random((time, size)) < 0.2 if resets else None)


def both(name, dtype):
    return [backends.load(b).Learner(spec(name), seed=3, dtype=dtype) for b in ("numpy", "torch")]


@pytest.mark.parametrize(
    ("dtype", "first", "later"), [("float32", 1e-6, 1e-5), ("float64", 1e-13, 1e-11)]
)
@pytest.mark.parametrize("name", SPECS)
def test_curves_agree_with_numpys(name, dtype, first, later, rng):
    learners = both(name, dtype)
    for k, batch in enumerate(batches(spec(name), rng, 8)):
        metrics = [one.step(batch, learning_rate=1e-2, clip_norm=0.5) for one in learners]
        assert metrics[0].keys() == metrics[1].keys()
        for key in metrics[0]:
            assert metrics[0][key] == pytest.approx(metrics[1][key], abs=later if k else first)
    scores = [one.evaluate([batch, batch]) for one in learners]
    assert scores[0] == pytest.approx(scores[1], abs=later)
    gates = [one.gates(batch) for one in learners]
    for side, expected in zip(*gates, strict=True):
        assert side.dtype == np.float64
        np.testing.assert_allclose(side, expected, rtol=0, atol=later)


@pytest.mark.parametrize("name", SPECS)
def test_a_state_resumes_bit_for_bit_and_loads_into_the_numpy_learner(name, rng):
    data = list(batches(spec(name), rng, 6))
    whole, first, second = (backends.load("torch").Learner(spec(name), seed=3) for _ in range(3))
    for batch in data:
        whole.step(batch, learning_rate=1e-2)
    for batch in data[:3]:
        first.step(batch, learning_rate=1e-2)
    second.load_state_dict(first.state_dict())
    for batch in data[3:]:
        second.step(batch, learning_rate=1e-2)
    state = second.state_dict()
    for key, value in whole.state_dict().items():
        np.testing.assert_array_equal(value, state[key])
    other = backends.load("numpy").Learner(spec(name), seed=3)
    other.load_state_dict(state)
    assert other.evaluate(data) == pytest.approx(second.evaluate(data), abs=1e-6)


def test_a_loss_that_is_not_finite_is_returned_and_changes_no_parameter():
    learner = backends.load("torch").Learner(spec("dense minimal"), seed=0)
    before = learner.state_dict()
    x = np.full((5, 3, 2), np.nan, np.float32)
    metrics = learner.step(Batch(x, np.zeros((1, 3, 3), np.float32)), learning_rate=1e-2)
    assert np.isnan(metrics["loss"])
    after = learner.state_dict()
    assert all(np.array_equal(before[k], after[k]) for k in before if k != "steps")


@pytest.mark.parametrize("change", ["missing", "shape", "dtype"])
def test_a_state_that_does_not_fit_raises(change):
    learner = backends.load("torch").Learner(spec("one-hot lstm"))
    state = learner.state_dict()
    name = "parameters.layers.0.weight_hh"
    if change == "missing":
        del state[name]
    else:
        state[name] = state[name][:1] if change == "shape" else state[name].astype(np.float64)
    with pytest.raises(ValueError, match="state"):
        learner.load_state_dict(state)


def test_inputs_out_of_range_raise(rng):
    learner = backends.load("torch").Learner(spec("one-hot lstm"))
    with pytest.raises(ValueError, match=r"must lie in 0\.\.6"):
        learner.evaluate([Batch(np.full((5, 3), 9), np.zeros((2, 3), int))])


@pytest.mark.parametrize(
    "name", ["copying", "adding", "forgetting", "pixels", "language", "programs"]
)
def test_every_task_has_the_same_first_loss_on_both_backends(name):
    pytest.importorskip("pydantic", reason="the tasks' dependencies are not installed")
    from gatecore.tasks import Config

    small = {"length": 20} if name in ("copying", "adding") else {}
    try:
        config = Config.of(name, "UR", hidden_size=16, batch_size=4, backend="torch", **small)
        batch = config.task.batch(7, 0, 4)
    except FileNotFoundError as error:
        pytest.skip(f"the data of {name} is not on this machine: {error}")
    losses = [
        backends.load(b).Learner(config.spec(), seed=7).step(batch, learning_rate=1e-3)["loss"]
        for b in ("numpy", "torch")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
