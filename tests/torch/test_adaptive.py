"""The adaptive softmax: torch's own module, with the specification's matrices."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from gatecore import Batch, ModelSpec, backends  # noqa: E402

PLAIN = {"input": "embedding", "input_size": 50, "output_size": 50, "hidden_size": 16}
SPEC = ModelSpec(**PLAIN, adaptive=(5, 20), streams=3)


def batch_of(rng):
    tokens = rng.integers(0, 50, (7, 3))
    targets = rng.integers(0, 50, (7, 3))
    targets[:, 1] = -1
    return Batch(tokens, targets)


def module_of(spec, seed):
    """The module itself, loaded with the initial matrices by the module's names."""
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(16, 50, [5, 20]).double()
    initial = spec.initial(seed)
    names = {name.removeprefix("adaptive.") for name in initial if name.startswith("adaptive.")}
    assert names == set(module.state_dict())
    state = {name: torch.tensor(initial[f"adaptive.{name}"]) for name in names}
    module.load_state_dict(state)
    return module


def test_the_loss_is_that_of_torchs_module_over_the_scored_targets(rng):
    learner, batch = backends.load("torch").Learner(SPEC, seed=2, dtype="float64"), batch_of(rng)
    initial = {name: torch.tensor(value) for name, value in SPEC.initial(2).items()}
    prefix = "layers.0."
    layer = {n.removeprefix(prefix): v for n, v in initial.items() if n.startswith(prefix)}
    x = initial["embedding.weight"][torch.tensor(batch.inputs)]
    hidden, _ = backends.load("torch").lstm(layer, x, mechanism=SPEC.mechanism)
    scored = torch.tensor(batch.targets.ravel() >= 0)
    targets = torch.tensor(batch.targets.ravel())[scored]
    expected = module_of(SPEC, 2)(hidden.flatten(0, 1)[scored], targets).loss.item()
    assert learner.evaluate([batch]) == {"loss": pytest.approx(expected, rel=1e-12)}


def test_an_adaptive_softmax_learns_and_resumes_bit_for_bit(rng):
    batches = [batch_of(rng)] * 8
    whole, first, second = (backends.load("torch").Learner(SPEC, seed=3) for _ in range(3))
    losses = [whole.step(batch, learning_rate=0.05)["loss"] for batch in batches]
    assert losses[-1] < 0.8 * losses[0]
    for batch in batches[:4]:
        first.step(batch, learning_rate=0.05)
    second.load_state_dict(first.state_dict())
    assert [second.step(batch, learning_rate=0.05)["loss"] for batch in batches[4:]] == losses[4:]


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_learners_of_other_backends_raise(backend):
    if backend == "jax":
        pytest.importorskip("optax", reason="optax is not installed")
    with pytest.raises(ValueError, match=r"adaptive=\(5, 20\) is torch's own .* torch backend"):
        backends.load(backend).Learner(SPEC)


def test_configurations_of_other_backends_raise():
    pytest.importorskip("pydantic", reason="the tasks' dependencies are not installed")
    from gatecore.tasks import Config
    from gatecore.tasks.training.config import ConfigError

    with pytest.raises(ConfigError, match=r"backend='numpy': adaptive=.* torch backend"):
        Config.of("language", adaptive=[100, 1000])
    assert Config.of("language", adaptive=[100, 1000], backend="torch").spec().adaptive[0] == 100


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"adaptive": ()}, "ascending sizes below output_size=50"),
        ({"adaptive": (20, 5)}, "ascending sizes"),
        ({"adaptive": (5, 50)}, "ascending sizes"),
        ({"adaptive": (5, 10, 20)}, "needs 64 units or more before it, got 16"),
        ({"adaptive": (5,), "tied": True}, "tied cannot be too"),
        ({"adaptive": (5,), "loss": "squared_error"}, "loss='squared_error' cannot be too"),
    ],
)
def test_impossible_clusters_raise(changes, complaint):
    with pytest.raises(ValueError, match=complaint):
        ModelSpec(**PLAIN | changes)


def test_an_adaptive_softmax_has_fewer_parameters_than_a_full_one():
    sizes = {"input": "one_hot", "input_size": 50, "output_size": 50_000, "hidden_size": 64}
    count = [
        sum(np.size(value) for name, value in ModelSpec(**sizes, **extra).initial(0).items())
        for extra in ({}, {"adaptive": (1000, 10_000)})
    ]
    assert count[1] < count[0] / 5
