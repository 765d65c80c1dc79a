"""The second bias of Appendix D.5: it doubles the learning rate of the layers' biases."""

import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends

SPEC = {"input": "dense", "input_size": 3, "output_size": 2, "hidden_size": 4, "layers": 2}


def batch(seed=0):
    rng = np.random.default_rng(seed)
    return Batch(rng.standard_normal((6, 5, 3)), rng.integers(2, size=(6, 5)))


def learner(backend="numpy", core="lstm", **settings):
    spec = ModelSpec(**SPEC, core=core, mechanism="UR", **settings)
    return backends.load(backend).Learner(spec, seed=3, dtype="float64")


def total(one, name):
    """The bias that a layer adds to its logits."""
    second = one.parameters.get(f"layers.{name}.bias_hh", 0.0)
    return np.asarray(one.parameters[f"layers.{name}.bias"]) + np.asarray(second)


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_biases_start_as_one_and_move_twice_as_far(core):
    one, two = learner(core=core), learner(core=core, two_biases=True)
    before = [total(one, k) for k in range(2)]
    for k in range(2):
        np.testing.assert_array_equal(total(two, k), before[k])
    losses = [model.step(batch(), learning_rate=0.01)["loss"] for model in (one, two)]
    assert losses[0] == losses[1]
    for k in range(2):
        np.testing.assert_allclose(
            total(two, k) - before[k], 2 * (total(one, k) - before[k]), rtol=1e-9
        )
        same = f"layers.{k}.weight_hh"
        np.testing.assert_array_equal(two.parameters[same], one.parameters[same])


def test_both_biases_count_in_the_gradients_norm():
    one, two = learner(), learner(two_biases=True)
    norms = [model.step(batch(), learning_rate=0.01)["gradient_norm"] for model in (one, two)]
    assert norms[1] > norms[0]


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_every_backend_trains_both(backend, core):
    pytest.importorskip(backend)
    models = [learner(name, core, two_biases=True) for name in ("numpy", backend)]
    for step in range(3):
        for model in models:
            model.step(batch(step), learning_rate=0.01, clip_norm=0.1)
    for name, value in models[0].parameters.items():
        other = models[1].parameters[name]
        other = other.detach().numpy() if backend == "torch" else np.asarray(other)
        np.testing.assert_allclose(other, value, rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_array_equal(
        models[0].parameters["layers.1.bias_hh"] != 0, np.ones(models[0].spec.cells()[1].rows, bool)
    )


def test_a_state_resumes_with_both():
    first, second = learner(two_biases=True), learner(two_biases=True)
    first.step(batch(), learning_rate=0.01)
    second.load_state_dict(first.state_dict())
    assert (second.parameters["layers.0.bias_hh"] == first.parameters["layers.0.bias_hh"]).all()
    with pytest.raises(ValueError, match="bias_hh"):
        learner().load_state_dict(first.state_dict())


def test_models_with_one_bias_refuse_it():
    with pytest.raises(ValueError, match="two_biases=True: core='rmc' has one bias"):
        ModelSpec(**{**SPEC, "layers": 1}, core="rmc", two_biases=True)
    with pytest.raises(TypeError, match="two_biases must be True or False"):
        ModelSpec(**SPEC, two_biases=2)
