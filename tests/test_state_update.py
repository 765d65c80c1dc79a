"""The state update is accurate at both ends of the gate, in every implementation.

An implementation joins by a row of ``IMPLEMENTATIONS``: a function of a case that returns the
states after its one step, the hidden state first.
"""

import numpy as np
import pytest

from gatecore import Gate, backends
from gatecore.backends.native import library
from gatecore.cells import update
from tests import reference
from tests.support import CORES, EVERY_CORE, GATINGS, ULP, equations, nested, relative_error

HIDDEN, LARGE, CANDIDATE = 6, 12345.6, 0.3


class Forgetting:
    """One step of a layer, float32, that forgets a large state and writes 0.3.

    An ordered forget gate ends at 1: its last unit keeps the state.
    """

    def __init__(self, core, name):
        self.cell = EVERY_CORE[core](1, HIDDEN, GATINGS[name])
        ordered = self.cell.mechanism.ordered_slots
        logits = {"refine": -200, "forget": -200, "master_forget": -200}
        logits["candidate"] = np.arctanh(CANDIDATE)
        bias = [
            [0] * (width - 1) + [200] if slot in ordered else [logits.get(slot, 200)] * width
            for slot, width in self.cell.slots
        ]
        shapes = self.cell.parameter_shapes()
        params = {name: np.zeros(shape) for name, shape in shapes.items()}
        params["bias"] = np.concatenate(bias)
        state = [np.full((1, HIDDEN), LARGE) for _ in self.cell.state_names]
        self.params = {name: value.astype(np.float32) for name, value in params.items()}
        self.x = np.zeros((1, 1, 1), np.float32)
        self.state = self.cell.state([part.astype(np.float32) for part in state])

    def exact(self):
        """The paper's equations in float64."""
        layer = equations(self.cell.core, self.cell.mechanism)
        trace = reference.run(layer, *map(nested, (self.params, self.x, self.state)))
        return self.cell.parts(trace.state)


def by_cells(case):
    return case.cell.parts(case.cell.scan(case.params, case.x, case.state)[1])


def by_numpy(case, **options):
    layer = getattr(backends.load("numpy"), case.cell.core)
    _, state, _ = layer(case.params, case.x, case.state, case.cell.mechanism, **options)
    return case.cell.parts(state)


def by_torch(case, impl):
    torch = pytest.importorskip("torch")
    from gatecore.backends.torch.nn import functional

    layer = getattr(functional, case.cell.core)
    params = {name: torch.tensor(value) for name, value in case.params.items()}
    state = case.cell.state([torch.tensor(part) for part in case.cell.parts(case.state)])
    _, state = layer(params, torch.tensor(case.x), state, case.cell.mechanism, impl=impl)
    return [part.reshape(1, HIDDEN) for part in case.cell.parts(state)]


def by_jax(case, impl):
    pytest.importorskip("jax")
    layer = getattr(backends.load("jax"), case.cell.core)
    _, state = layer(case.params, case.x, case.state, case.cell.mechanism, impl=impl)
    return case.cell.parts(state)


IMPLEMENTATIONS = {
    "cells": by_cells,
    "numpy reference": lambda case: by_numpy(case, impl="reference"),
    "numpy native": lambda case: by_numpy(case, impl="native"),
    "torch native": lambda case: by_torch(case, "native"),
    "jax native": lambda case: by_jax(case, "native"),
    "torch reference": lambda case: by_torch(case, "reference"),
    "torch plain": lambda case: by_torch(case, "plain"),
    "jax reference": lambda case: by_jax(case, "reference"),
}


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("name", GATINGS)
def test_a_large_state_that_is_forgotten_leaves_nothing_behind(implementation, core, name):
    if "native" in implementation and library.unsupported():
        pytest.skip(library.unsupported())
    case = Forgetting(core, name)
    states = IMPLEMENTATIONS[implementation](case)
    for got, exact in zip(states, case.exact(), strict=True):
        assert relative_error(got, exact) < 8 * ULP  # one-sided: .2998


def gates(arrays, forget, input=None):
    """The gate in both halves of [0, 1], and the input gate or None, as float32 arrays."""
    sides = (forget, 1 - forget), None if input is None else (input, 1 - input)
    return [s and Gate(*(arrays.array(side, "float32") for side in s)) for s in sides]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_update_is_within_two_roundings_of_its_terms(arrays, tied, rng):
    state, candidate, forget, input_ = rng.uniform(size=(4, 5000)).astype(np.float32)
    forget[::2] **= 40  # half of the gates forget nearly all
    state *= np.float32(10) ** rng.integers(-4, 5, 5000).astype(np.float32)
    pair = gates(arrays, forget, None if tied else input_)
    got = update(arrays.array(state, "float32"), arrays.array(candidate, "float32"), *pair)
    sides = [s and [arrays.numpy(side).astype(float) for side in s] for s in pair]
    write = sides[0][1] if tied else sides[1][0]
    kept = np.where(forget < 0.5, sides[0][0], 1 - sides[0][1]) * state
    exact = kept + write * candidate
    assert relative_error(arrays.numpy(got), exact) < 3 * ULP


@pytest.mark.parametrize("value", [0.0, 0.25, 0.75, 1.0])
def test_the_derivatives_are_those_of_the_gated_sum(autodiff, value):
    state, candidate, written = 2.0, -0.5, 0.625
    arguments = [np.array([a]) for a in (state, candidate, value, 1 - value, written)]
    expected = {True: (value, 1 - value, state - candidate), False: (value, written, state)}

    def tied(state, candidate, forget, complement):
        return (update(state, candidate, Gate(forget, complement)),)

    def untied(state, candidate, forget, complement, written):
        return (update(state, candidate, Gate(forget, complement), Gate(written, 1 - written)),)

    for function in (tied, untied):
        count = 4 if function is tied else 5
        slopes = autodiff.gradients(function, arguments[:count], [np.ones(1)])
        d_state, d_candidate, d_forget, d_complement = slopes[:4]
        got = (d_state, d_candidate, d_forget - d_complement)  # the gate's sides sum to 1
        assert np.allclose(np.ravel(got), expected[function is tied], rtol=1e-14)
    assert slopes[4] == candidate
