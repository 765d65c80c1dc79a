"""The names that users' code relies on, and the `__all__` of the modules that hold them."""

import importlib
import importlib.util
import inspect

import pytest

PUBLIC = {
    "gatecore": """
        Gate negate both either mix timescale logit sigmoid cumax refine master
        refine_vjp master_vjp sigmoid_vjp cumax_vjp
        init cells Mechanism MECHANISMS mechanism ModelSpec Batch
    """,
    "gatecore.init": """
        uniform chrono chrono_unbounded constant
        uniform_quantile chrono_quantile chrono_unbounded_quantile
    """,
    "gatecore.cells": "LSTM GRU Minimal",
    "gatecore.backends": "load",
    "gatecore.backends.numpy": "lstm gru minimal Learner unsupported",
    "gatecore.backends.torch": """
        LSTM GRU Minimal LSTMCell GRUCell MinimalCell GateUnit convert watch Learner
        RelationalMemory DNC RMA Agent unsupported
    """,
    "gatecore.backends.jax": """
        lstm gru minimal LSTMCell GRUCell MinimalCell GateUnit convert Learner unsupported
    """,
    "gatecore.backends.jax.equinox": "LSTMCell GRUCell MinGRUCell MinimalCell",
    "gatecore.backends.jax.linen": "LSTMCell GRUCell MinGRUCell MinimalCell from_flax to_flax",
    "gatecore.backends.keras": "LSTM GRU Minimal LSTMCell GRUCell MinimalCell",
    "gatecore.analysis": """
        verify Claim timescales ordered equivalence gradients saturation figures
        gradient_bounds expected_gates ExpectedGates timescale_quantile initial_gate_density
        sample_timescales
    """,
    "gatecore.tasks": """
        copying adding forgetting pixels language programs match
        train load_run sweep SweepConfig report
    """,
}
WITHOUT_ALL = ("gatecore.cells", "gatecore.init")  # reached through gatecore
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names.split()]


def public(module):
    """The module; where its framework is not installed the test is skipped, and says so."""
    framework = module.removeprefix("gatecore.backends.").partition(".")[0]
    if framework in ("torch", "jax", "keras") and importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    return importlib.import_module(module)


@pytest.mark.parametrize(("module", "name"), NAMES, ids=[f"{m}.{n}" for m, n in NAMES])
def test_a_public_name_exists_and_is_documented(module, name):
    value = getattr(public(module), name)
    assert not callable(value) or inspect.getdoc(value)


@pytest.mark.parametrize("module", [name for name in PUBLIC if name not in WITHOUT_ALL])
def test_all_lists_the_public_names_and_nothing_that_is_missing(module):
    imported = public(module)
    listed = imported.__all__
    assert len(set(listed)) == len(listed)
    assert set(PUBLIC[module].split()) <= set(listed)
    assert all(hasattr(imported, name) for name in listed)


def test_the_nine_mechanisms_of_the_paper_are_in_the_table():
    names = ["standard", "C", "O", "U", "R", "OM", "OR", "UM", "UR"]
    assert list(importlib.import_module("gatecore").MECHANISMS) == names


def test_the_numpy_backend_is_the_one_that_load_returns():
    backends = importlib.import_module("gatecore.backends")
    assert backends.load("numpy") is importlib.import_module("gatecore.backends.numpy")
