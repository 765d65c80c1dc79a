"""A model that carries its state from batch to batch, and one whose embedding is its output layer.

On every backend that is installed.
"""

import importlib.util

import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends
from tests.support import CORES

T, B, V, H = 6, 3, 7, 5
PLAIN = {"input": "embedding", "input_size": V, "output_size": V, "hidden_size": H}
SPECS = {
    "lstm": {"mechanism": "UM", "layers": 2, "embedding_size": 4},
    "gru": {"core": "gru", "mechanism": "OR", "tied": True},
    "minimal": {"core": "minimal", "tied": True, "head": (4,), "embedding_size": 4},
}


NEEDS = {"numpy": "numpy", "torch": "torch", "jax": "optax"}
PAIRS = [(name, spec) for name in NEEDS for spec in SPECS]


def loaded(name):
    if importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"{NEEDS[name]} is not installed")
    return backends.load(name)


def spec_of(name):
    return ModelSpec(**PLAIN, streams=B, **SPECS[name])


@pytest.fixture(params=NEEDS)
def backend(request):
    return loaded(request.param)


@pytest.fixture(params=SPECS)
def spec(request):
    return spec_of(request.param)


@pytest.fixture(params=[p for p in PAIRS if "jax" not in p or "gru" in p], ids="-".join)
def pair(request):
    """A backend and a model; JAX takes seconds to compile one, so it has only one."""
    name, spec = request.param
    return loaded(name), spec_of(spec)


def text(rng, windows, length=T, streams=B):
    """Batches that continue one another, with some resets: the whole, and its windows."""
    tokens = rng.integers(0, V, (windows * length + 1, streams))
    resets = rng.random((windows * length, streams)) < 0.1
    whole = Batch(tokens[:-1], tokens[1:], resets)
    return whole, [
        Batch(*(part[k * length : (k + 1) * length] for part in whole)) for k in range(windows)
    ]


def same(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[name], other[name]) for name in one)


def reference_loss(spec, params, batch, state):
    """The model written in torch over the core's cells: its loss, and the last states."""
    import torch
    from torch.nn import functional

    x, last = params["embedding.weight"][torch.tensor(batch.inputs)], []
    for k in range(spec.layers):
        own = {n.split(".")[2]: p for n, p in params.items() if n.startswith(f"layers.{k}.")}
        cell = CORES[spec.core](x.shape[2], spec.hidden_size, spec.mechanism)
        before = cell.initial_state(x) if state is None else state[k]
        outputs = []
        for t in range(len(x)):
            keep = torch.tensor(~batch.resets[t])[:, None]
            lstm = spec.core == "lstm"
            before = tuple(s * keep for s in before) if lstm else before * keep
            output, before = cell.step(own, x[t], before)
            outputs.append(output)
        x = torch.stack(outputs)
        last.append(before)
    for k in range(len(spec.head)):
        x = torch.relu(x @ params[f"head.{k}.weight"].T + params[f"head.{k}.bias"])
    name = f"head.{len(spec.head)}"
    weight = params["embedding.weight"] if spec.tied else params[f"{name}.weight"]
    x = x @ weight.T + params[f"{name}.bias"]
    return functional.cross_entropy(x.flatten(0, 1), torch.tensor(batch.targets).flatten()), last


def test_evaluation_in_windows_is_evaluation_of_the_whole(pair, rng):
    backend, spec = pair
    whole, windows = text(rng, 4)
    learner = backend.Learner(spec, seed=1)
    assert learner.evaluate(windows) == pytest.approx(learner.evaluate([whole]), rel=1e-5)
    alone = np.mean([learner.evaluate([window])["loss"] for window in windows])
    assert abs(alone - learner.evaluate([whole])["loss"]) > 1e-5  # the state does matter


def test_training_steps_continue_one_another_and_evaluation_disturbs_nothing(pair, rng):
    """At a rate of zero the steps' losses are those of the whole text's parts."""
    backend, spec = pair
    whole, windows = text(rng, 3)
    learner = backend.Learner(spec, seed=1)
    losses = []
    for window in windows:
        losses.append(learner.step(window, learning_rate=0.0)["loss"])
        learner.evaluate(text(rng, 2, streams=2)[1])
    assert np.mean(losses) == pytest.approx(learner.evaluate([whole])["loss"], rel=1e-5)


def test_gradients_stop_where_a_batch_starts(spec, rng):
    """Of the second window, against torch's, with the state of the first as a constant.

    With Adam's eps and rate at 1e12 a first step subtracts the gradient itself.
    """
    torch = pytest.importorskip("torch")
    _, (first, second) = text(rng, 2)
    learner = backends.load("numpy").Learner(spec, seed=2, eps=1e12, dtype="float64")
    learner.step(first, learning_rate=0.0)
    start = {name: value for name, value in learner.state_dict().items() if "carried" in name}
    learner = backends.load("numpy").Learner(spec, seed=2, eps=1e12, dtype="float64")
    learner.load_state_dict(learner.state_dict() | start)
    before = {name: value.copy() for name, value in learner.parameters.items()}
    metrics = learner.step(second, learning_rate=1e12)
    gradients = {name: before[name] - value for name, value in learner.parameters.items()}
    params = {k: torch.tensor(v, requires_grad=True) for k, v in spec.initial(2).items()}
    with torch.no_grad():
        _, state = reference_loss(spec, params, first, None)
    loss, _ = reference_loss(spec, params, second, state)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    expected = torch.autograd.grad(loss, list(params.values()))
    for name, gradient in zip(params, expected, strict=True):
        np.testing.assert_allclose(gradients[name], gradient, rtol=1e-6, atol=1e-10, err_msg=name)


def test_every_backend_trains_to_the_same_parameters(pair, rng):
    backend, spec = pair
    ours, reference = (m.Learner(spec, seed=3) for m in (backend, backends.load("numpy")))
    for k, window in enumerate(text(rng, 4)[1]):
        got, expected = (
            one.step(window, learning_rate=0.01, clip_norm=0.1) for one in (ours, reference)
        )
        assert got == pytest.approx(expected, abs=1e-4 if k else 1e-5)
    carried = [name for name in reference.state_dict() if name.startswith("carried.")]
    assert len(carried) == len(spec.carried()) > 0
    for name in carried:
        np.testing.assert_allclose(
            ours.state_dict()[name], reference.state_dict()[name], atol=1e-4, err_msg=name
        )


def test_a_restored_learner_continues_bit_for_bit(pair, rng):
    backend, spec = pair
    _, windows = text(rng, 4)
    whole, second = (backend.Learner(spec, seed=3) for _ in range(2))
    for window in windows[:2]:
        whole.step(window, learning_rate=0.01)
    saved = {name: np.array(value) for name, value in whole.state_dict().items()}
    expected = [whole.step(window, learning_rate=0.01) for window in windows[2:]]
    second.load_state_dict(saved)
    assert [second.step(window, learning_rate=0.01) for window in windows[2:]] == expected
    assert same(second.state_dict(), whole.state_dict())


def test_a_step_that_is_not_finite_leaves_the_state_unchanged(backend, rng):
    spec = ModelSpec(
        input="dense", input_size=2, output_size=1, hidden_size=4, loss="squared_error", streams=2
    )
    learner = backend.Learner(spec)
    inputs = np.full((3, 2, 2), np.nan, np.float32)
    learner.step(Batch(inputs, np.zeros((3, 2, 1), np.float32)), learning_rate=0.1)
    carried = {name: value for name, value in learner.state_dict().items() if "carried" in name}
    assert carried
    assert not any(np.any(value) for value in carried.values())


def test_batches_of_another_number_of_streams_raise(backend, rng):
    learner = backend.Learner(ModelSpec(**PLAIN, streams=B))
    _, (three,) = text(rng, 1)
    _, (two,) = text(rng, 1, streams=2)
    with pytest.raises(ValueError, match=r"batch\.inputs must hold 3 sequences.*got 2"):
        learner.step(two, learning_rate=0.1)
    with pytest.raises(ValueError, match=r"batch\.inputs must hold 3 sequences.*got 2"):
        learner.evaluate([three, two])
    assert learner.evaluate([two]) == learner.evaluate([two])


def test_a_tied_embedding_has_the_output_layers_distribution_and_name():
    sizes = {"hidden_size": 16, "input_size": 400, "output_size": 400}
    spec = ModelSpec(**PLAIN | sizes, tied=True)
    initial = spec.initial(0)
    assert "head.0.weight" not in initial
    assert initial["embedding.weight"].shape == (400, 16)
    assert 0.9 / 4 < np.abs(initial["embedding.weight"]).max() <= 1 / 4
    assert spec.head_names() == [("embedding.weight", "head.0.bias")]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"streams": 0}, "streams"),
        ({"tied": True, "input": "one_hot"}, "tied is for input='embedding', not 'one_hot'"),
        ({"tied": True, "output_size": 3}, "tied needs output_size=7 .* got 3"),
        ({"tied": True, "embedding_size": 3}, "tied needs embedding_size=5 .* got 3"),
        ({"tied": True, "head": (3,)}, "tied needs embedding_size=3 .* got 5"),
    ],
)
def test_contradictory_models_raise(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        ModelSpec(**PLAIN | changes)
