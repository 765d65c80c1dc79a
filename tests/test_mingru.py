"""MinGRU: a linear recurrence whose gates and candidate do not depend on the state."""

import dataclasses

import numpy as np
import pytest

from gatecore import ModelSpec, backends, cells, mechanism, timescale
from tests import reference
from tests.support import GATINGS, equations, nested, norm_error, random_params

T, B, INPUTS, D = 4, 2, 3, 6

numpy = backends.load("numpy")


@pytest.mark.parametrize("name", GATINGS)
def test_the_candidate_may_be_a_tanh(name, rng):
    layer = equations("mingru", GATINGS[name])._replace(candidate="tanh")
    params, xs = random_params(layer, INPUTS, D, rng), rng.standard_normal((T, B, INPUTS))
    expected = reference.run(layer, nested(params), nested(xs)).outputs
    cell = cells.MinGRU(INPUTS, D, GATINGS[name], candidate="tanh")
    output, _, pullback = numpy.mingru(params, xs, None, GATINGS[name], candidate="tanh")
    assert norm_error(cell.scan(params, xs)[0], expected) < 1e-12
    assert norm_error(output, expected) < 1e-12
    d_params, _, _ = pullback(np.ones_like(output))
    for index in np.ndindex(params["bias"].shape):
        sums = []
        for shift in (1e-5, -1e-5):
            moved = params["bias"].copy()
            moved[index] += shift
            result = numpy.mingru(params | {"bias": moved}, xs, None, GATINGS[name],
                                  candidate="tanh")  # fmt: skip
            sums.append(result[0].sum())
        assert d_params["bias"][index] == pytest.approx((sums[0] - sums[1]) / 2e-5, abs=1e-8)


@pytest.mark.parametrize("name", ["standard", "C", "O", "U", "R", "OR", "UR"])
def test_an_earlier_state_enters_by_a_power_of_the_initial_gate(name):
    """The factor (1 − 1/τ)^N of docs/long-sequences.md, at zero input."""
    gating, steps = mechanism(name), 100
    biases = gating.biases("mingru", 16, 0)
    params = {
        "weight_ih": np.ones((16 * len(biases), INPUTS)),
        "bias": np.concatenate([*biases.values()]),
    }
    output, _, pullback = numpy.mingru(params, np.zeros((steps, 1, INPUTS)), None, gating)
    last = np.zeros_like(output)
    last[-1] = 1
    _, _, d_h = pullback(last)
    forget, _ = gating.gates(biases)
    assert d_h[0] == pytest.approx(
        np.exp(steps * np.log1p(-1 / timescale(forget))), rel=1e-9, abs=0
    )


def test_the_candidate_is_part_of_the_cell():
    linear, tanh = (cells.MinGRU(3, 8, candidate=c) for c in ("linear", "tanh"))
    assert linear != tanh
    assert linear == cells.MinGRU(3, 8)
    assert dataclasses.replace(tanh, hidden_size=8) == tanh
    assert repr(tanh) == "MinGRU(3, 8, mechanism='UR', candidate='tanh')"


@pytest.mark.parametrize("name", GATINGS)
@pytest.mark.parametrize("size", [6, 12, 60])
def test_the_rows_give_the_number_of_units(name, size):
    gating = GATINGS[name]
    assert gating.units("mingru", gating.rows("mingru", size)) == size
    with pytest.raises(ValueError, match="packed rows a unit"):
        gating.units("mingru", gating.rows("mingru", size) + 1)


@pytest.mark.parametrize(
    ("change", "options", "complaint"),
    [
        ({"weight_hh": np.zeros((24, 8))}, {}, "unknown entry 'weight_hh'"),
        ({"weight_ih": np.zeros((25, 3))}, {}, "does not divide 25"),
        ({"weight_ih": np.zeros((24, 4))}, {}, r"must have shape \(24, 3\)"),
        ({"bias": np.zeros(23)}, {}, "bias"),
        ({}, {"candidate": "relu"}, "candidate='relu' is unknown"),
    ],
)
def test_errors_name_the_argument(change, options, complaint):
    params = cells.MinGRU(3, 8).init(0) | change
    with pytest.raises(ValueError, match=complaint):
        numpy.mingru(params, np.zeros((2, 1, 3)), **options)


def test_stacked_layers_stream(rng):
    """The state after the first part of a sequence is the initial one of the second."""
    gating = mechanism("OM", downsize=2)
    params = [cells.MinGRU(inputs, D, gating).init(rng) for inputs in (INPUTS, D)]
    xs = rng.standard_normal((T, B, INPUTS))
    whole, last, _ = numpy.mingru(params, xs, None, gating)
    first, state, _ = numpy.mingru(params, xs[:1], None, gating)
    second, end, _ = numpy.mingru(params, xs[1:], state, gating)
    assert np.array_equal(np.concatenate([first, second]), whole)
    assert all(np.array_equal(one, other) for one, other in zip(end, last, strict=True))


def test_models_refuse_what_has_no_effect():
    sizes = {"input": "one_hot", "input_size": 3, "output_size": 2, "hidden_size": 4}
    assert ModelSpec(core="mingru", **sizes).cells() == [cells.MinGRU(3, 4)]
    with pytest.raises(ValueError, match="core='mingru' has one bias"):
        ModelSpec(core="mingru", **sizes, two_biases=True)
