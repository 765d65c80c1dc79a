"""Recurrent layers in residual blocks: one model on every backend that is installed."""

import dataclasses
import importlib.util

import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends
from gatecore.contracts.agent import AgentSpec
from tests.support import EVERY_CORE, norm_error

T, B, H = 6, 4, 8
SPEC = ModelSpec(input="one_hot", input_size=5, output_size=3, hidden_size=H, core="mingru",
                 layers=2, residual=True)  # fmt: skip
NEEDS = {"numpy": "numpy", "torch": "torch", "jax": "optax"}


@pytest.fixture(params=NEEDS)
def backend(request):
    if importlib.util.find_spec(NEEDS[request.param]) is None:
        pytest.skip(f"{NEEDS[request.param]} is not installed")
    return backends.load(request.param)


def batch(rng, time=T):
    return Batch(rng.integers(0, 5, (time, B)), rng.integers(0, 3, (time, B)),
                 rng.random((time, B)) < 0.2)  # fmt: skip


def gradients(backend, spec, data):
    """With Adam's eps and rate at 1e12 a first step subtracts the gradient itself."""
    learner = backend.Learner(spec, seed=2, eps=1e12, dtype="float64")
    before = learner.state_dict()
    learner.step(data, learning_rate=1e12)
    return {name: before[name] - value for name, value in learner.state_dict().items()
            if name.startswith("parameters.")}  # fmt: skip


@pytest.mark.parametrize("core", EVERY_CORE)
@pytest.mark.parametrize("input", ["one_hot", "embedding"])
def test_all_gradients_are_those_of_numpys_learner(backend, core, input, rng):
    spec, data = dataclasses.replace(SPEC, core=core, candidate=None, input=input), batch(rng)
    expected, got = (gradients(b, spec, data) for b in (backends.load("numpy"), backend))
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert norm_error(got[name], value) < 1e-12, name


def test_the_parameters_around_a_layer_have_torchs_names_and_distributions():
    initial = dataclasses.replace(SPEC, layers=1, hidden_size=64).initial(0)
    shapes = {name: value.shape for name, value in initial.items() if "layers" not in name}
    assert shapes == {
        "projection.weight": (64, 5),
        "projection.bias": (64,),
        "blocks.0.norm.weight": (64,),
        "blocks.0.norm.bias": (64,),
        "blocks.0.linear.weight": (64, 64),
        "blocks.0.linear.bias": (64,),
        "norm.weight": (64,),
        "norm.bias": (64,),
        "head.0.weight": (3, 64),
        "head.0.bias": (3,),
    }
    assert (initial["norm.weight"] == 1).all()
    assert not initial["blocks.0.norm.bias"].any()
    assert 0.95 / 8 < np.abs(initial["blocks.0.linear.weight"]).max() <= 1 / 8
    assert np.abs(initial["projection.bias"]).max() <= 5**-0.5


def test_only_an_embedding_of_the_hidden_size_is_not_projected():
    embedded = dataclasses.replace(SPEC, input="embedding")
    assert "projection.weight" not in embedded.initial(0)
    narrow = dataclasses.replace(embedded, embedding_size=5).initial(0)
    assert narrow["projection.weight"].shape == (H, 5)
    assert narrow["layers.0.weight_ih"].shape[1] == H


def test_a_block_of_zero_weights_passes_its_input_on(backend, rng):
    """The loss is then that of a model without recurrent layers, at every step alike."""
    learner, data = backend.Learner(SPEC, seed=1), batch(rng)
    state = learner.state_dict()
    silent = {name: np.zeros_like(value) if ".linear." in name else value
              for name, value in state.items()}  # fmt: skip
    learner.load_state_dict(silent)
    weights = {n.removeprefix("parameters."): v for n, v in silent.items()}
    x = weights["projection.weight"].T[data.inputs] + weights["projection.bias"]
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    logits = x @ weights["head.0.weight"].T + weights["head.0.bias"]
    picked = np.take_along_axis(logits, data.targets[..., None], -1)[..., 0]
    expected = (np.log(np.exp(logits).sum(-1)) - picked).mean()
    assert learner.evaluate([data])["loss"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("core", EVERY_CORE)
def test_the_state_of_every_layer_is_carried(backend, core, rng):
    spec = dataclasses.replace(SPEC, core=core, candidate=None)
    data = batch(rng)
    whole = backend.Learner(spec, seed=1, dtype="float64").evaluate([data])["loss"]
    parts = [Batch(*(array[steps] for array in data)) for steps in (slice(0, 3), slice(3, None))]
    streaming = backend.Learner(dataclasses.replace(spec, streams=B), seed=1, dtype="float64")
    assert streaming.evaluate(parts)["loss"] == pytest.approx(whole, rel=1e-12)


def test_the_candidate_is_part_of_the_model(backend, rng):
    data = batch(rng)
    losses = [backend.Learner(dataclasses.replace(SPEC, candidate=c), seed=1).evaluate([data])
              for c in ("linear", "tanh", None)]  # fmt: skip
    assert losses[0] == losses[2] != losses[1]
    assert [c.candidate for c in dataclasses.replace(SPEC, candidate="tanh").cells()] == 2 * [
        "tanh"
    ]


@pytest.mark.parametrize(
    ("settings", "error", "complaint"),
    [
        ({"residual": 1}, TypeError, "residual must be True or False, got 1"),
        ({"candidate": "relu"}, ValueError, "candidate='relu' is unknown: known are linear, tanh"),
        ({"candidate": ""}, ValueError, "candidate='' is unknown"),
        ({"core": "gru", "candidate": "tanh"}, ValueError,
         "candidate='tanh' is for core mingru, not 'gru'"),
        ({"core": "dnc", "layers": 1}, ValueError,
         "residual=True is for core lstm, gru, minimal, mingru, not 'dnc'"),
    ],
)  # fmt: skip
def test_errors_name_the_field(settings, error, complaint):
    fields = {"input": "dense", "input_size": 2, "output_size": 1, "hidden_size": H,
              "core": "mingru", "residual": True}  # fmt: skip
    with pytest.raises(error, match=complaint):
        ModelSpec(**fields | settings)
    if "layers" not in settings:
        with pytest.raises(error, match=complaint):
            AgentSpec(shape=(3,), actions=2, **{"hidden_size": H, "core": "mingru"} | settings)


def test_an_agent_without_a_core_refuses_blocks():
    with pytest.raises(ValueError, match=r"residual=True is for core .*, not 'none'"):
        AgentSpec(shape=(3,), actions=2, hidden_size=H, core="none", residual=True)
