"""The JAX learner is the NumPy learner, to rounding."""

import numpy as np
import pytest

pytest.importorskip("optax")

from gatecore import Batch, ModelSpec
from gatecore.backends import jax as backend
from gatecore.backends.jax import native, sequence
from gatecore.backends.numpy import functional as reference
from tests.support import norm_error

SPECS = {
    "one-hot lstm": {
        "input": "one_hot", "input_size": 5, "output_size": 4, "zoneout": (0.3, 0.1), "read": 3,
    },
    "embedding gru": {
        "input": "embedding", "input_size": 5, "output_size": 4, "core": "gru", "layers": 2,
        "zoneout": (0.0, 0.2), "mechanism": "OM",
    },
    "dense minimal": {
        "input": "dense", "input_size": 3, "output_size": 2, "core": "minimal", "head": (6, 5),
        "dropout": 0.4, "loss": "squared_error", "read": 1, "mechanism": "UM",
    },
    "residual mingru": {
        "input": "one_hot", "input_size": 5, "output_size": 4, "core": "mingru", "layers": 3,
        "candidate": "tanh", "residual": True, "zoneout": (0.0, 0.1),
    },
    "residual gru": {
        "input": "embedding", "input_size": 5, "output_size": 4, "core": "gru", "layers": 2,
        "residual": True, "head": (6,), "dropout": 0.3,
    },
    "one-hot mingru": {
        "input": "one_hot", "input_size": 5, "output_size": 4, "core": "mingru", "layers": 2,
        "zoneout": (0.0, 0.2),
    },
}  # fmt: skip


def spec_of(name):
    return ModelSpec(hidden_size=8, **SPECS[name])


def batch_of(spec, rng, time=6, size=4):
    """A random batch with some resets and some targets that are not scored."""
    read = spec.read or time
    lowest = -1 if spec.input == "one_hot" else 0  # -1: a vector of zeros
    inputs = rng.integers(lowest, spec.input_size, (time, size))
    if spec.input == "dense":
        inputs = rng.standard_normal((time, size, spec.input_size), np.float32)
    targets = rng.integers(-1, spec.output_size, (read, size))
    if spec.loss == "squared_error":
        targets = rng.standard_normal((read, size, spec.output_size), np.float32)
    return Batch(inputs, targets, rng.random((time, size)) < 0.2)


@pytest.mark.parametrize("name", SPECS)
def test_steps_are_those_of_the_numpy_learner(name, rng):
    spec = spec_of(name)
    learner, numpys = (module.Learner(spec, seed=3) for module in (backend, reference))
    for _ in range(3):
        batch = batch_of(spec, rng)
        actual, expected = (
            one.step(batch, learning_rate=0.01, clip_norm=0.5) for one in (learner, numpys)
        )
        assert actual.keys() == expected.keys()
        for metric, value in expected.items():
            assert actual[metric] == pytest.approx(value, rel=1e-5)
    batches = [batch_of(spec, rng), batch_of(spec, rng)]
    assert learner.evaluate(batches) == pytest.approx(numpys.evaluate(batches), rel=1e-4)
    for actual, expected in zip(learner.gates(batches[0]), numpys.gates(batches[0]), strict=True):
        assert actual.dtype == np.float64
        assert norm_error(actual, expected) < 1e-4
    for key, value in numpys.state_dict().items():
        assert norm_error(learner.state_dict()[key], value) < 1e-3


@pytest.mark.parametrize("name", ["one-hot lstm", "residual mingru", "residual gru"])
def test_float64_follows_the_numpy_learner_to_rounding(name, rng):
    spec = spec_of(name)
    learner, numpys = (m.Learner(spec, seed=1, dtype="float64") for m in (backend, reference))
    for _ in range(2):
        batch = batch_of(spec, rng)
        actual, expected = (one.step(batch, learning_rate=0.01) for one in (learner, numpys))
        assert actual == pytest.approx(expected, rel=1e-12)


def test_a_state_continues_on_either_backend_and_resumes_bit_for_bit(rng):
    spec = spec_of("one-hot lstm")
    learner, numpys = (module.Learner(spec, seed=3) for module in (backend, reference))
    batch = batch_of(spec, rng)
    numpys.step(batch, learning_rate=0.01)
    learner.load_state_dict(numpys.state_dict())
    resumed = backend.Learner(spec, seed=3)
    resumed.load_state_dict(learner.state_dict())
    expected, actual, again = (
        one.step(batch, learning_rate=0.01) for one in (numpys, learner, resumed)
    )
    assert actual == again
    assert actual == pytest.approx(expected, rel=1e-5)
    assert all(
        np.array_equal(value, resumed.state_dict()[key])
        for key, value in learner.state_dict().items()
    )


def test_a_state_that_does_not_fit_raises():
    learner = backend.Learner(spec_of("one-hot lstm"))
    state = learner.state_dict()
    with pytest.raises(ValueError, match=r"head\.0\.bias.* float32 of shape"):
        learner.load_state_dict(state | {"parameters.head.0.bias": np.zeros(9, np.float32)})
    del state["steps"]
    with pytest.raises(ValueError, match="steps"):
        learner.load_state_dict(state)


def test_a_step_that_diverges_leaves_the_parameters_alone(rng):
    spec = spec_of("dense minimal")
    learner, batch = backend.Learner(spec), batch_of(spec, rng)
    before = learner.state_dict()
    broken = batch._replace(targets=batch.targets * np.float32(np.inf))
    assert not np.isfinite(learner.step(broken, learning_rate=0.1)["gradient_norm"])
    after = learner.state_dict()
    assert int(after.pop("steps")) == int(before.pop("steps")) + 1
    assert all(np.array_equal(after[key], before[key]) for key in before)


def test_bad_settings_and_batches_raise(rng):
    spec = spec_of("one-hot lstm")
    learner, batch = backend.Learner(spec), batch_of(spec, rng)
    with pytest.raises(ValueError, match="learning_rate"):
        learner.step(batch, learning_rate=-1.0)
    with pytest.raises(ValueError, match=r"batch\.inputs must lie in 0\.\.4"):
        learner.step(batch._replace(inputs=batch.inputs + 6), learning_rate=0.1)
    with pytest.raises(ValueError, match=r"batch\.targets"):
        learner.evaluate([batch._replace(targets=batch.targets[1:])])
    with pytest.raises(ValueError, match="at least one"):
        learner.evaluate([])


@pytest.mark.parametrize(
    "name", ["copying", "adding", "forgetting", "pixels", "language", "programs"]
)
def test_every_task_has_the_same_first_loss_on_both_backends(name):
    pytest.importorskip("pydantic", reason="the tasks' dependencies are not installed")
    from gatecore.tasks import Config

    small = {"length": 20} if name in ("copying", "adding") else {}
    try:
        config = Config.of(name, "UR", hidden_size=16, batch_size=4, backend="jax", **small)
        batch = config.task.batch(7, 0, 4)
    except FileNotFoundError as error:
        pytest.skip(f"the data of {name} is not on this machine: {error}")
    losses = [
        module.Learner(config.spec(), seed=7).step(batch, learning_rate=1e-3)["loss"]
        for module in (reference, backend)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_a_task_trains_with_the_jax_backend(tmp_path):
    pytest.importorskip("pydantic", reason="the tasks' dependencies are not installed")
    from gatecore.tasks import train
    from tests.tasks.tiny import tiny

    train(tiny(backend="jax"), tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("impl", ["native", "reference"])
def test_the_requested_implementation_runs_every_layer(impl, rng, monkeypatch):
    if impl == "native" and (reason := native.unsupported(native.Call("float32"))):
        pytest.skip(reason)
    spec, ran = spec_of("embedding gru"), []
    choose = sequence.choose
    monkeypatch.setattr(
        sequence, "choose", lambda impl, call: ran.append(choose(impl, call)) or ran[-1]
    )
    learner, other = backend.Learner(spec, impl=impl), reference.Learner(spec)
    batch = batch_of(spec, rng)
    actual, expected = (one.step(batch, learning_rate=0.01) for one in (learner, other))
    assert {implementation.name for implementation in ran} == {impl}
    assert actual["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_an_unavailable_implementation_raises_when_the_learner_is_made():
    with pytest.raises(ValueError, match="impl='native' is not available: it computes in float32"):
        backend.Learner(spec_of("one-hot lstm"), impl="native", dtype="float64")
    with pytest.raises(ValueError, match="impl='quick' is unknown"):
        backend.Learner(spec_of("one-hot lstm"), impl="quick")
