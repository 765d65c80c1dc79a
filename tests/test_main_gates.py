"""The forget gates f_t themselves, which a refine gate modulates, on every backend."""

import numpy as np
import pytest

from gatecore import Batch, ModelSpec, backends

SPEC = {"input": "dense", "input_size": 3, "output_size": 2, "hidden_size": 8}


def batch():
    rng = np.random.default_rng(0)
    return Batch(rng.standard_normal((6, 5, 3)), rng.integers(2, size=(6, 5)))


def learner(mechanism, backend="numpy", core="lstm", dtype="float64", **settings):
    spec = ModelSpec(**SPEC, core=core, mechanism=mechanism, layers=2)
    return backends.load(backend).Learner(spec, seed=3, dtype=dtype, **settings)


@pytest.mark.parametrize("core", ["lstm", "gru", "minimal"])
def test_they_are_the_activations_of_the_forget_slot(core):
    one = learner("UR", core=core)
    spec, x = one.spec, batch().inputs
    for k, cell in enumerate(spec.cells()):
        params = {n: one.parameters[f"layers.{k}.{n}"] for n in cell.parameter_shapes()}
        state, outputs, gates = cell.initial_state(x), [], []
        for step in x:
            hidden = cell.parts(state)[0]
            logits = cell.split(cell.project(params, step) + hidden @ params["weight_hh"].T)
            gates.append(1 / (1 + np.exp(-logits["forget"])))
            output, state = cell.step(params, step, state)
            outputs.append(output)
        found = one.main_gates(batch())
        np.testing.assert_allclose(found.value[k], np.mean(gates, (0, 1)), rtol=1e-9)
        np.testing.assert_allclose(found.complement[k], 1 - np.mean(gates, (0, 1)), rtol=1e-9)
        x = np.stack(outputs)


def test_without_an_auxiliary_gate_they_are_the_effective_gates():
    one = learner("U")
    for mine, effective in zip(one.main_gates(batch()), one.gates(batch()), strict=True):
        np.testing.assert_array_equal(mine, effective)
    refined = learner("UR")
    assert np.abs(refined.main_gates(batch()).value - refined.gates(batch()).value).max() > 0.01


@pytest.mark.parametrize("mechanism", ["R", "UR", "OR"])
@pytest.mark.parametrize("core", ["lstm", "gru"])
@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_backends_agree(mechanism, core, backend):
    pytest.importorskip(backend)
    expected = learner(mechanism, core=core, impl="reference").main_gates(batch())
    found = learner(mechanism, backend, core, dtype="float32").main_gates(batch())
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == np.float64
        np.testing.assert_allclose(mine, theirs, rtol=2e-5)


def test_a_core_with_a_memory_has_none():
    torch = pytest.importorskip("torch")
    assert torch is not None
    spec = ModelSpec(**SPEC, core="dnc")
    with pytest.raises(ValueError, match="core='dnc' has none"):
        backends.load("torch").Learner(spec).main_gates(batch())
