"""Gradients through saturated gates are accurate to their own size in float32, on every path."""

import functools
import importlib

import mpmath
import numpy as np
import pytest

from gatecore import (
    Gate,
    cumax,
    cumax_vjp,
    master,
    master_vjp,
    mechanism,
    refine,
    refine_vjp,
    sigmoid,
    sigmoid_vjp,
)
from gatecore.backends.native import library
from tests.support import CORES

SMALLEST = 1e-30  # the size from which gradients are compared
TOLERANCE = 1e-4
SAMPLES = 600


def sigmoids(x):
    """σ(x) and σ(−x) of a float in 60 digits."""
    return 1 / (1 + mpmath.exp(-x)), 1 / (1 + mpmath.exp(x))


def master_derivatives(logits):
    """d(f̂, î) / d(the logits of F, I, f, i), by equations (21)-(23); J is I."""
    (F, F_bar), (J, J_bar), (f, f_bar), (i, i_bar) = map(sigmoids, logits)
    return (
        (F * F_bar * (1 - J + f * J), -F * J * J_bar * f_bar, F * J * f * f_bar, 0),
        (-J * F * F_bar * i_bar, J * J_bar * (1 - F + i * F), 0, F * J * i * i_bar),
    )


def refine_derivatives(logits):
    """dg / d(the logits of f, r), by equation (12)."""
    (f, f_bar), (r, r_bar) = map(sigmoids, logits)
    return ((2 * f * f_bar * (r * f_bar + r_bar * f), 2 * f * f_bar * r * r_bar),)


def untied_derivatives(logits):
    """d(f̂, î) / d(the logits of f, r, i, and the input gate's r), by Section 2.4."""
    (forget,), (input_,) = refine_derivatives(logits[:2]), refine_derivatives(logits[2:])
    return (*forget, 0, 0), (0, 0, *input_)


@functools.cache
def exact(derivatives, count):
    """Float32 logits in ±70 (count, samples), and the derivatives (results, count, samples)."""
    draws = np.random.default_rng(count)
    ends = draws.choice([-70, -40, -20, -3, 0, 3, 20, 40, 70], (count, SAMPLES // 2))
    logits = np.concatenate([ends, draws.uniform(-70, 70, (count, SAMPLES // 2))], axis=1)
    logits = logits.astype(np.float32)
    with mpmath.workdps(60):
        rows = [derivatives([mpmath.mpf(float(z)) for z in column]) for column in logits.T]
        return logits, np.moveaxis(np.array(rows, dtype=float), 0, -1)


def assert_accurate(got, expected):
    got, expected = np.asarray(got, dtype=float), np.asarray(expected)
    compared = np.abs(expected) > SMALLEST
    assert compared.any()
    np.testing.assert_allclose(got[compared], expected[compared], rtol=TOLERANCE)
    assert np.all(np.abs(got[~compared]) < 2 * SMALLEST)


# --- the algebra: explicit derivatives, and those that the libraries take -------------------------


@pytest.mark.parametrize("result", [0, 1], ids=["forget", "input"])
def test_master_vjp_keeps_the_size_of_every_gradient(arrays, result):
    logits, expected = exact(master_derivatives, 4)
    z = [arrays.array(row, "float32") for row in logits]
    cotangents = [arrays.array(np.full(SAMPLES, k == result), "float32") for k in (0, 1)]
    gradients = master_vjp(*map(sigmoid, z), *cotangents)
    got = [arrays.numpy(sigmoid_vjp(*pair)) for pair in zip(z, gradients, strict=True)]
    assert_accurate(got, expected[result])


def test_refine_vjp_keeps_the_size_of_every_gradient(arrays):
    logits, expected = exact(refine_derivatives, 2)
    z = [arrays.array(row, "float32") for row in logits]
    gradients = refine_vjp(*map(sigmoid, z), arrays.array(np.ones(SAMPLES), "float32"))
    got = [arrays.numpy(sigmoid_vjp(*pair)) for pair in zip(z, gradients, strict=True)]
    assert_accurate(got, expected[0])


@pytest.mark.parametrize("side", range(4))
def test_autodiff_of_master_keeps_the_size_of_every_gradient(autodiff, side):
    """Of the value and of the complement of the forget gate, then of the input gate."""
    logits, expected = exact(master_derivatives, 4)

    def sides(*z):
        forget, input_ = master(*map(sigmoid, z))
        return *forget, *input_

    cotangents = [np.full(SAMPLES, k == side, np.float32) for k in range(4)]
    got = autodiff.gradients(sides, list(logits), cotangents)
    assert_accurate(got, (-1) ** side * expected[side // 2])


@pytest.mark.parametrize("side", [0, 1], ids=["value", "complement"])
def test_autodiff_of_refine_keeps_the_size_of_every_gradient(autodiff, side):
    logits, expected = exact(refine_derivatives, 2)
    cotangents = [np.full(SAMPLES, k == side, np.float32) for k in (0, 1)]
    got = autodiff.gradients(lambda *z: refine(*map(sigmoid, z)), list(logits), cotangents)
    assert_accurate(got, (-1) ** side * expected[0])


@pytest.mark.parametrize("side", [0, 1], ids=["value", "complement"])
def test_autodiff_of_cumax_keeps_the_size_of_every_gradient(autodiff, side):
    logits = np.random.default_rng(7).uniform(-70, 70, (40, 6)).astype(np.float32)
    for unit in range(5):  # the last is 1 whatever the logits
        v = np.zeros((40, 6), np.float32)
        v[:, unit] = 1
        cotangents = [v, 0 * v] if side == 0 else [0 * v, v]
        (got,) = autodiff.gradients(cumax, [logits], cotangents)
        assert_accurate(got, cumax_vjp(logits.astype(float), Gate(*map(np.float64, cotangents))))


# --- whole layers: biases of one step are the logits, one unit for each sample --------------------


def layer_paths():
    """The ways to run a layer: functions (core, gating, params, x, state) to the bias' gradient."""

    def with_numpy(core, gating, params, x, state, **options):
        backend = importlib.import_module("gatecore.backends.numpy")
        output, _, pullback = getattr(backend, core)(params, x, state, gating, **options)
        return pullback(np.ones_like(output))[0]["bias"]

    def with_torch(core, gating, params, x, state, **options):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        backend = importlib.import_module("gatecore.backends.torch")
        params = {k: torch.tensor(v, requires_grad=k == "bias") for k, v in params.items()}
        state = tuple(map(torch.tensor, state)) if core == "lstm" else torch.tensor(state)
        output, _ = getattr(backend, core)(params, torch.tensor(x), state, gating, **options)
        return torch.autograd.grad(output.sum(), params["bias"])[0].numpy()

    def with_jax(core, gating, params, x, state, **options):
        jax = pytest.importorskip("jax", reason="JAX is not installed")
        backend = importlib.import_module("gatecore.backends.jax")

        def total(params):
            return getattr(backend, core)(params, x, state, gating, **options)[0].sum()

        return np.asarray(jax.jit(jax.grad(total))(params)["bias"])

    native = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))
    runs = {"numpy": with_numpy, "torch": with_torch, "jax": with_jax}
    for name, run in runs.items():
        yield pytest.param(run, {"impl": "reference"}, id=f"{name}-reference")
        yield pytest.param(run, {"impl": "native"}, id=f"{name}-native", marks=native)
    yield pytest.param(with_torch, {"impl": "plain"}, id="torch-plain")
    yield pytest.param(with_jax, {"impl": "reference", "autodiff": True}, id="jax-autodiff")


def one_step(core, gating, logits, slots, candidate, old):
    """A layer whose unit k has these logits as biases, the candidate and the old state."""
    cell = CORES[core](1, SAMPLES, gating)
    params = {name: np.zeros(s, np.float32) for name, s in cell.parameter_shapes().items()}
    rows = cell.split(params["bias"])  # views
    for slot, row in zip(slots, logits, strict=True):
        rows[slot][...] = row
    rows["candidate"][...] = candidate
    x, state = np.zeros((1, 1, 1), np.float32), np.full((1, SAMPLES), old, np.float32)
    return cell, params, x, cell.state([state] * len(cell.state_names))


@pytest.mark.parametrize(("run", "options"), [*layer_paths()])
@pytest.mark.parametrize("result", [0, 1], ids=["forget", "input"])
@pytest.mark.parametrize(
    ("gating", "derivatives", "slots"),
    [
        (mechanism("M"), master_derivatives, ("master_forget", "master_input", "forget", "input")),
        (
            mechanism("R", tied=False),
            untied_derivatives,
            ("forget", "refine", "input", "refine_input"),
        ),
    ],
    ids=["master", "untied"],
)
def test_an_lstm_keeps_the_size_of_every_gradient(run, options, gating, derivatives, slots, result):
    """Its candidate is 0, or its old state: so the gradient is of one effective gate."""
    logits, expected = exact(derivatives, 4)
    drive = (0.0, 1.0) if result == 0 else (0.5, 0.0)
    cell, params, x, state = one_step("lstm", gating, logits, slots, *drive)
    weight = drive[1] if result == 0 else np.tanh(np.float64(drive[0]))
    gates = gating.gates(dict(zip(slots, logits.astype(float), strict=True)))
    weight = weight * 0.5 * (1 - np.tanh(gates[result].value * weight) ** 2)  # output gate ½
    got = cell.split(run("lstm", gating, params, x, state, **options))
    assert_accurate([got[slot] for slot in slots], weight * expected[result])


@pytest.mark.parametrize(("run", "options"), [*layer_paths()])
@pytest.mark.parametrize("core", ["gru", "minimal"])
def test_tied_inner_gates_keep_the_size_of_every_master_gates_gradient(core, run, options):
    """The inner input gate is 1 − f, and the candidate 0, so the gradient is of f̂ alone."""
    logits, expected = exact(master_derivatives, 4)
    slots = "master_forget", "master_input", "forget"
    cell, params, x, state = one_step(core, mechanism("M"), logits[:3], slots, 0.0, 1.0)
    got = cell.split(run(core, mechanism("M"), params, x, state, **options))
    assert_accurate([got[slot] for slot in slots], expected[0][:3])
