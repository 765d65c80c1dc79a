"""The NumPy backend's layers and their gradients, against independent references."""

import numpy as np
import pytest
from scipy import signal

from gatecore import backends, mechanism
from tests import reference
from tests.sequences import (
    LAYERS,
    VARIANTS,
    B,
    D,
    T,
    assert_every_slope_is_a_difference,
    assert_float32_is_close,
    assert_is_the_transcription,
    assert_pullback_is_the_derivative,
    central_slope,
    gradient,
    random_like,
    reference_result,
    reference_run,
    run,
    sequence_case,
    size,
)
from tests.support import (
    EVERY_CORE,
    GATINGS,
    LAYER_KINDS,
    inner,
    layer_vectors,
    leaves,
    nested,
    norm_error,
    rebuild,
)

numpy = backends.load("numpy")

every = pytest.mark.parametrize("core", EVERY_CORE)
gated = pytest.mark.parametrize("name", GATINGS)
varied = pytest.mark.parametrize("variant", VARIANTS)


# --- the high-precision vectors -----------------------------------------------------------------


@pytest.mark.parametrize("name", LAYER_KINDS)
def test_layers_and_all_their_gradients_agree_with_the_vectors(name):
    v = layer_vectors(name)
    gating = mechanism(
        {"none": "standard", "refine": "UR", "master": "OM"}[v.layer.auxiliary],
        downsize=v.layer.downsize,
    )
    output, _, pullback = LAYERS[v.layer.core](v.params, v.x, v.state, gating)
    assert norm_error(output, v.outputs) < 1e-12
    assert np.sum(v.weight * output) == pytest.approx(v.loss, rel=1e-12)
    d_params, d_x, d_state = pullback(v.weight)
    assert d_params.keys() == v.grad_params.keys()
    for key, expected in v.grad_params.items():
        assert norm_error(d_params[key], expected) < 1e-12
    assert norm_error(d_x, v.grad_x) < 1e-12
    for got, expected in zip(leaves(d_state), leaves(v.grad_state), strict=True):
        assert norm_error(got, expected) < 1e-12
    gates = pullback.gates()
    assert norm_error(gates.value, v.forget) < 1e-12
    assert norm_error(gates.complement, 1 - v.forget) < 1e-12


@pytest.mark.parametrize("name", ["layer_lstm", "layer_ur_lstm", "layer_om_lstm"])
def test_cell_states_agree_with_the_vectors(name):
    v = layer_vectors(name)
    gating = mechanism(
        {"none": "standard", "refine": "UR", "master": "OM"}[v.layer.auxiliary],
        downsize=v.layer.downsize,
    )
    (output, cells), _, _ = numpy.lstm(v.params, v.x, v.state, gating, return_cells=True)
    assert norm_error(output, v.outputs) < 1e-12
    assert norm_error(cells, v.cells) < 1e-12


# --- every mechanism, cell and variant ----------------------------------------------------------


@every
@gated
@varied
def test_a_layer_is_the_papers_recurrence(core, name, variant, rng):
    assert_is_the_transcription(sequence_case(core, GATINGS[name], variant, rng))


@every
@gated
@varied
def test_the_pullback_is_the_derivative_of_the_papers_recurrence(core, name, variant, rng):
    assert_pullback_is_the_derivative(sequence_case(core, GATINGS[name], variant, rng), rng)


@every
@gated
@varied
def test_the_pullback_matches_finite_differences_of_the_layer(core, name, variant, rng):
    case = sequence_case(core, GATINGS[name], variant, rng)
    *result, pullback = run(case)
    weights = random_like(tuple(result), rng)
    slopes = gradient(pullback, weights)
    for _ in range(3):
        direction = random_like(case.point, rng)
        direction = rebuild(direction, iter([d / size(direction) for d in leaves(direction)]))
        expected = central_slope(
            lambda point: inner(tuple(run(case, point)[:2]), weights), case.point, direction
        )
        assert abs(inner(slopes, direction) - expected) < 1e-6 * max(abs(expected), 1)


@pytest.mark.parametrize(
    ("core", "name", "variant"),
    [
        ("lstm", "UR", "plain"),
        ("lstm", "OM/2", "resets"),
        ("gru", "OR", "draws"),
        ("minimal", "UM/3", "evaluation"),
        ("gru", "M", "stacked"),
    ],
)
def test_every_entry_of_the_gradient_matches_finite_differences(core, name, variant, rng):
    assert_every_slope_is_a_difference(sequence_case(core, GATINGS[name], variant, rng), rng)


@gated
def test_cell_states_and_their_cotangents_belong_to_the_derivative(name, rng):
    case = sequence_case("lstm", GATINGS[name], "plain", rng)
    (output, cells), state, pullback = run(case, return_cells=True)
    (trace,) = reference_run(case, case.point)
    assert norm_error(cells, trace.cells) < 1e-12
    d_output, d_cells, d_state = random_like((output, cells, state), rng)
    both = leaves(gradient(pullback, ((d_output, d_cells), d_state)))
    parts = [
        leaves(gradient(pullback, weights))
        for weights in (((d_output, None), d_state), ((None, d_cells), None))
    ]
    for whole, one, other in zip(both, *parts, strict=True):
        assert norm_error(one + other, whole) < 1e-13
    direction = random_like(case.point, rng)
    expected = central_slope(
        lambda point: inner(run(case, point, return_cells=True)[0][1], d_cells),
        case.point,
        direction,
    )
    got = inner(gradient(pullback, ((None, d_cells), None)), direction)
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mask_and_a_probability_of_zoneout_may_be_mixed(swapped, rng):
    case = sequence_case("lstm", GATINGS["UR"], "draws", rng)
    case.zoneout = (0.0, case.zoneout[1]) if swapped else (case.zoneout[0], 0.05)
    output, _, _ = run(case)
    assert norm_error(output, reference_result(case, case.point)[0]) < 1e-12


# --- numbers ------------------------------------------------------------------------------------


@every
@gated
def test_float32_stays_close_to_float64(core, name, rng):
    assert_float32_is_close(sequence_case(core, GATINGS[name], "resets", rng), rng)


def test_long_timescales_stay_accurate_in_float32(rng):
    """Timescale 1e6 over 1e5 steps: within 1e-4 (1 - g subtracted would err by 4e-2)."""
    steps, scale = 100_000, 1e6
    params = {  # forget, candidate; the candidate follows the input
        "weight_ih": np.array([[0.0], [1.0]]),
        "weight_hh": np.zeros((2, 1)),
        "bias": np.array([np.log(scale - 1), 0.5]),
    }
    x = rng.standard_normal((steps, 1, 1)).astype(np.float32)
    single = {name: value.astype(np.float32) for name, value in params.items()}
    got, _, pullback = numpy.minimal(single, x, None, "standard")
    share = float(1 / (1 + np.exp(single["bias"][0], dtype=np.float64)))  # 1 - g
    exact = signal.lfilter([share], [1, share - 1], np.tanh(x[:, 0, 0] + 0.5, dtype=np.float64))
    assert norm_error(got[:, 0, 0], exact) < 1e-4
    assert pullback.gates().complement[-1, 0, 0] == pytest.approx(share, rel=1e-6)


@every
@gated
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extreme_logits_give_finite_numbers_without_a_warning(core, name, dtype, rng):
    case = sequence_case(core, GATINGS[name], "plain", rng)
    params = case.point["params"]
    params["bias"] = rng.choice([0.0, 100.0, -100.0, 1000.0, -1000.0], params["bias"].shape)
    point = rebuild(case.point, iter([a.astype(dtype) for a in leaves(case.point)]))
    output, _, pullback = run(case, point)
    rounding = 1000 * np.finfo(dtype).eps  # of the logits themselves
    assert norm_error(output, reference_near(case)) < 2 * rounding
    for leaf in leaves((output, pullback(np.ones_like(output)), tuple(pullback.gates()))):
        assert np.isfinite(leaf).all()


def reference_near(case):
    """The reference's outputs in mpmath, for which no logit is extreme."""
    import mpmath

    with mpmath.workdps(30):
        exact = np.vectorize(lambda value: mpmath.mpf(float(value)), otypes=[object])
        point = rebuild(case.point, iter([exact(leaf) for leaf in leaves(case.point)]))
        point = nested(point)
        trace = reference.run(case.layer, point["params"], point["x"], point["state"], m=mpmath)
        return np.array(trace.outputs).astype(float).reshape(T, B, D)
