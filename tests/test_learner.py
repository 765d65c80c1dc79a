"""The NumPy learner trains the model that its specification describes."""

import dataclasses

import numpy as np
import pytest

from gatecore import Batch, Gate, ModelSpec, backends, mechanism
from gatecore.contracts.learner import Learner
from tests import reference
from tests.support import EVERY_CORE, equations, nested, norm_error

numpy = backends.load("numpy")
T, B, H = 5, 3, 6

SPECS = {
    "one-hot lstm, last steps read": {
        "input": "one_hot",
        "input_size": 7,
        "output_size": 4,
        "core": "lstm",
        "read": 2,
    },
    "embedding gru, stacked, ReLU layer": {
        "input": "embedding",
        "input_size": 7,
        "output_size": 4,
        "core": "gru",
        "layers": 2,
        "mechanism": mechanism("OM", downsize=2),
        "embedding_size": 5,
        "head": (8,),
    },
    "embedding minimal": {
        "input": "embedding",
        "input_size": 7,
        "output_size": 4,
        "core": "minimal",
        "mechanism": "OR",
        "read": 3,
    },
    "dense minimal, two ReLU layers": {
        "input": "dense",
        "input_size": 2,
        "output_size": 3,
        "core": "minimal",
        "read": 1,
        "head": (8, 7),
        "loss": "squared_error",
    },
    "one-hot mingru, stacked": {
        "input": "one_hot",
        "input_size": 7,
        "output_size": 4,
        "core": "mingru",
        "mechanism": mechanism("UM", downsize=2),
        "layers": 2,
    },
    "dense mingru in residual blocks, resets": {
        "input": "dense",
        "input_size": 2,
        "output_size": 3,
        "core": "mingru",
        "candidate": "tanh",
        "layers": 3,
        "residual": True,
        "loss": "squared_error",
    },
    "embedding lstm in a residual block": {
        "input": "embedding",
        "input_size": 7,
        "output_size": 4,
        "residual": True,
        "read": 3,
    },
    "dense lstm, all steps, resets": {
        "input": "dense",
        "input_size": 2,
        "output_size": 3,
        "core": "lstm",
        "mechanism": "UM",
        "layers": 2,
        "loss": "squared_error",
    },
}


def build(name, **changes):
    return ModelSpec(hidden_size=H, **(SPECS[name] | changes))


def batch_for(spec, rng, batch=B, resets=False):
    """A random batch; a few targets of a cross-entropy are not scored."""
    read = spec.read or T
    if spec.input == "dense":
        inputs = rng.standard_normal((T, batch, spec.input_size)).astype(np.float32)
    else:
        inputs = rng.integers(0, spec.input_size, (T, batch))
    if spec.loss == "squared_error":
        targets = rng.standard_normal((read, batch, spec.output_size)).astype(np.float32)
    else:
        targets = rng.integers(0, spec.output_size, (read, batch))
        targets[0, 0] = -1
    return Batch(inputs, targets, rng.random((T, batch)) < 0.3 if resets else None)


def torch_loss(spec, params, batch):
    """The model written in torch, from the specification, over the core's cells."""
    import torch
    from torch.nn import functional

    if spec.input == "dense":
        x = torch.tensor(batch.inputs).to(params["head.0.bias"].dtype)
    elif spec.input == "one_hot":
        x = functional.one_hot(torch.tensor(batch.inputs), spec.input_size)
        x = x.to(params["head.0.bias"].dtype)
    else:
        x = functional.embedding(torch.tensor(batch.inputs), params["embedding.weight"])

    def linear(x, name):
        return functional.linear(x, params[f"{name}.weight"], params[f"{name}.bias"])

    def normalized(x, name):
        gain, bias = params[f"{name}.weight"], params[f"{name}.bias"]
        return functional.layer_norm(x, (spec.hidden_size,), gain, bias)

    if spec.residual and spec.input != "embedding":
        x = linear(x, "projection")
    for k in range(spec.layers):
        skipped = x
        if spec.residual:
            x = normalized(x, f"blocks.{k}.norm")
        own = {n.split(".")[2]: p for n, p in params.items() if n.startswith(f"layers.{k}.")}
        extra = {"candidate": spec.candidate} if spec.core == "mingru" else {}
        cell = EVERY_CORE[spec.core](x.shape[2], spec.hidden_size, spec.mechanism, **extra)
        state, outputs = cell.initial_state(x), []
        for t in range(len(x)):
            if batch.resets is not None:
                keep = torch.tensor(~batch.resets[t])[:, None]
                state = tuple(s * keep for s in state) if spec.core == "lstm" else state * keep
            output, state = cell.step(own, x[t], state)
            outputs.append(output)
        x = torch.stack(outputs)
        if spec.residual:
            x = skipped + linear(x, f"blocks.{k}.linear")
    if spec.residual:
        x = normalized(x, "norm")
    x = x[-(spec.read or T) :]
    for k in range(len(spec.head) + 1):
        x = linear(x, f"head.{k}")
        x = torch.relu(x) if k < len(spec.head) else x
    targets = torch.tensor(batch.targets)
    if spec.loss == "squared_error":
        return functional.mse_loss(x, targets.to(x.dtype))
    return functional.cross_entropy(x.flatten(0, 1), targets.flatten(), ignore_index=-1)


def torch_params(spec, seed, dtype="float64"):
    import torch

    return {
        name: torch.tensor(value.astype(dtype), requires_grad=True)
        for name, value in spec.initial(seed).items()
    }


def gradients_of(spec, batch, seed=0):
    """The learner's gradients, by what it does: with Adam's eps and rate at 1e12 a first step
    subtracts the gradient itself (to one part in 1e12)."""
    learner = numpy.Learner(spec, seed=seed, eps=1e12, dtype="float64")
    before = {name: value.copy() for name, value in learner.parameters.items()}
    metrics = learner.step(batch, learning_rate=1e12)
    return metrics, {name: before[name] - value for name, value in learner.parameters.items()}


# --- the model and its gradients ----------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_loss_and_all_gradients_are_those_of_the_model_in_torch(name, rng):
    torch = pytest.importorskip("torch")
    spec = build(name)
    batch = batch_for(spec, rng, resets="resets" in name)
    params = torch_params(spec, 3)
    loss = torch_loss(spec, params, batch)
    expected = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
    metrics, got = gradients_of(spec, batch, seed=3)
    assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-12)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert norm_error(got[key], value.numpy()) < 1e-9
    norm = np.sqrt(sum(float((g**2).sum()) for g in expected.values()))
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-10)


@pytest.mark.parametrize(
    "name",
    [
        "embedding gru, stacked, ReLU layer",
        "dense lstm, all steps, resets",
        "dense mingru in residual blocks, resets",
        "embedding lstm in a residual block",
    ],
)
def test_gradients_under_dropout_and_zoneout_match_finite_differences(name, rng):
    """The masks depend on seed and step alone: the first step's loss is a function."""
    spec = build(name, zoneout=(0.3, 0.2), head=(8,), dropout=0.4)
    batch = batch_for(spec, rng)
    _, gradient = gradients_of(spec, batch, seed=1)
    direction = {key: rng.standard_normal(value.shape) for key, value in gradient.items()}

    def loss(amount):
        learner = numpy.Learner(spec, seed=1, dtype="float64")
        for key, value in learner.parameters.items():
            value += amount * direction[key]
        return learner.step(batch, learning_rate=0.0)["loss"]

    expected = (loss(1e-6) - loss(-1e-6)) / 2e-6
    got = sum(float((gradient[key] * direction[key]).sum()) for key in gradient)
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("clip_norm", [None, 0.05, 100.0])
@pytest.mark.parametrize(
    "name", ["one-hot lstm, last steps read", "dense minimal, two ReLU layers"]
)
def test_training_is_torchs_adam_with_torchs_clipping(name, clip_norm, rng):
    torch = pytest.importorskip("torch")
    spec, betas = build(name), (0.8, 0.99)
    learner = numpy.Learner(spec, seed=2, betas=betas, eps=1e-7, dtype="float64")
    params = torch_params(spec, 2)
    adam = torch.optim.Adam(params.values(), lr=0.01, betas=betas, eps=1e-7)
    for _ in range(6):
        batch = batch_for(spec, rng)
        metrics = learner.step(batch, learning_rate=0.01, clip_norm=clip_norm)
        adam.zero_grad()
        loss = torch_loss(spec, params, batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(
            params.values(), float("inf") if clip_norm is None else clip_norm
        )
        adam.step()
        assert metrics["loss"] == pytest.approx(loss.item(), rel=1e-9)
        assert metrics["gradient_norm"] == pytest.approx(float(norm), rel=1e-9)
    for key, value in params.items():
        assert norm_error(learner.parameters[key], value.detach().numpy()) < 1e-9


def test_float32_training_stays_close_to_float64(rng):
    spec = build("one-hot lstm, last steps read")
    learners = [numpy.Learner(spec, seed=1, dtype=d) for d in ("float32", "float64")]
    for _ in range(5):
        batch = batch_for(spec, rng)
        single, double = (a.step(batch, learning_rate=1e-2) for a in learners)
        assert single["loss"] == pytest.approx(double["loss"], rel=1e-5)
    assert all(value.dtype == np.float32 for value in learners[0].parameters.values())


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_every_backends_learner_has_the_interface_that_tasks_rely_on(backend):
    if backend != "numpy":
        pytest.importorskip({"jax": "optax"}.get(backend, backend))
    learner = backends.load(backend).Learner(build("dense minimal, two ReLU layers"))
    assert isinstance(learner, Learner)


def test_a_learner_learns():
    """It predicts the symbol of five steps ago."""
    draws = np.random.default_rng(0)
    spec = ModelSpec(input="one_hot", input_size=4, output_size=4, hidden_size=16, read=1)
    learner = numpy.Learner(spec, seed=0)

    def batch():
        inputs = draws.integers(0, 4, (T, 32))
        return Batch(inputs, inputs[:1])

    for _ in range(150):
        last = learner.step(batch(), learning_rate=2e-2, clip_norm=1.0)
    assert last["accuracy"] > 0.95
    assert last["loss"] < 0.3


def test_minus_one_is_a_vector_of_zeros_for_one_hot_input(rng):
    """The same model fed with the vectors themselves: equal seeds give it equal weights."""
    spec = build("one-hot lstm, last steps read")
    batch = batch_for(spec, rng)
    batch.inputs[rng.random(batch.inputs.shape) < 0.4] = -1
    dense = dataclasses.replace(spec, input="dense")
    vectors = (batch.inputs[..., None] == np.arange(spec.input_size)).astype(np.float64)
    assert (batch.inputs == -1).any()
    one, other = gradients_of(spec, batch), gradients_of(dense, batch._replace(inputs=vectors))
    assert one[0] == pytest.approx(other[0], rel=1e-13)
    for key, value in other[1].items():
        assert norm_error(one[1][key], value) < 1e-13


@pytest.mark.parametrize(("name", "smallest"), [("one-hot lstm, last steps read", -2),
                                                ("embedding minimal", -1)])  # fmt: skip
def test_inputs_below_their_range_raise(name, smallest, rng):
    spec = build(name)
    batch = batch_for(spec, rng)
    batch.inputs[0, 0] = smallest
    silence = ", or be -1 for no symbol" if "one-hot" in name else ""
    with pytest.raises(ValueError, match=rf"must lie in 0\.\.6{silence}, got {smallest}\.\."):
        numpy.Learner(spec).evaluate([batch])


# --- metrics ------------------------------------------------------------------------------------


def test_metrics_are_named_by_the_loss(rng):
    for name, extra in (
        ("one-hot lstm, last steps read", {"accuracy"}),
        ("dense minimal, two ReLU layers", set()),
    ):
        spec = build(name)
        learner, batch = numpy.Learner(spec), batch_for(spec, rng)
        metrics = learner.step(batch, learning_rate=0.1)
        assert set(metrics) == {"loss", "gradient_norm"} | extra
        assert set(learner.evaluate([batch])) == {"loss"} | extra
        assert all(type(value) is float for value in metrics.values())


def test_evaluation_is_the_mean_over_scored_elements_and_changes_nothing(rng):
    spec = build("one-hot lstm, last steps read", dropout=0.5, head=(5,), zoneout=(0.5, 0.5))
    learner = numpy.Learner(spec, dtype="float64")
    one, other = batch_for(spec, rng, batch=2), batch_for(spec, rng, batch=9)
    counts = [int((b.targets >= 0).sum()) for b in (one, other)]
    parts = [learner.evaluate([b]) for b in (one, other)]
    whole = learner.evaluate(iter([one, other]))
    for metric in ("loss", "accuracy"):
        expected = np.average([part[metric] for part in parts], weights=counts)
        assert whole[metric] == pytest.approx(expected, rel=1e-12)
    assert whole == learner.evaluate([one, other])


def test_accuracy_is_the_fraction_of_right_predictions_among_the_scored(rng):
    spec = build("one-hot lstm, last steps read")
    learner, batch = numpy.Learner(spec), batch_for(spec, rng)
    right = []
    for guess in range(spec.output_size):
        targets = np.where(batch.targets >= 0, guess, -1)
        right.append(learner.evaluate([batch._replace(targets=targets)])["accuracy"])
    assert sum(right) == pytest.approx(1)


def test_a_batch_without_a_scored_target_cannot_be_evaluated(rng):
    spec = build("one-hot lstm, last steps read")
    batch = batch_for(spec, rng)
    with pytest.raises(ValueError, match="scored"):
        numpy.Learner(spec).evaluate([batch._replace(targets=-np.ones_like(batch.targets))])


def test_a_batch_without_a_scored_target_does_not_change_the_mean(rng):
    spec = build("one-hot lstm, last steps read")
    learner, batch = numpy.Learner(spec), batch_for(spec, rng)
    empty = batch._replace(targets=-np.ones_like(batch.targets))
    assert learner.evaluate([batch, empty]) == learner.evaluate([batch])


def test_gates_are_the_effective_forget_gates_averaged_over_time_and_batch(rng):
    spec = build("dense lstm, all steps, resets")
    learner, batch = numpy.Learner(spec, dtype="float64"), batch_for(spec, rng, resets=True)
    gates = learner.gates(batch)
    layer = equations("lstm", spec.mechanism)
    params = [
        {n.split(".")[2]: p for n, p in learner.parameters.items() if n.startswith(f"layers.{k}.")}
        for k in range(2)
    ]
    traces = reference.run_stacked(
        layer, nested(params), batch.inputs.astype(float).tolist(), resets=batch.resets.tolist()
    )
    expected = np.array([np.mean(trace.forget, axis=(0, 1)) for trace in traces])
    assert isinstance(gates, Gate)
    assert norm_error(gates.value, expected) < 1e-12
    assert norm_error(gates.complement, 1 - expected) < 1e-12
    assert gates.value.dtype == gates.complement.dtype == np.float64


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_is_returned_and_changes_nothing(bad, rng):
    spec = build("dense minimal, two ReLU layers")
    learner, batch = numpy.Learner(spec), batch_for(spec, rng)
    before = {name: value.copy() for name, value in learner.parameters.items()}
    targets = batch.targets.copy()
    targets[0, 0, 0] = bad
    metrics = learner.step(batch._replace(targets=targets), learning_rate=0.1, clip_norm=1.0)
    assert not np.isfinite(metrics["loss"])
    assert all(np.array_equal(before[name], value) for name, value in learner.parameters.items())
    metrics = learner.step(batch, learning_rate=0.1, clip_norm=1.0)
    assert np.isfinite(metrics["loss"])
    assert all(np.isfinite(value).all() for value in learner.parameters.values())
