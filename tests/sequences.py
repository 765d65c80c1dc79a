"""Whole-sequence cases for the tests of a backend, and their expected results."""

import cmath
from types import SimpleNamespace

import numpy as np

from gatecore import backends
from tests import reference
from tests.support import (
    EVERY_CORE,
    equations,
    inner,
    leaves,
    moved,
    nested,
    norm_error,
    random_params,
    random_state,
    rebuild,
)

T, B, INPUTS, D = 4, 2, 3, 6
LAYERS = {core: getattr(backends.load("numpy"), core) for core in EVERY_CORE}
VARIANTS = ("plain", "resets", "evaluation", "draws", "stacked")


def sequence_case(core, gating, variant, rng, layer_norm=False):
    """Random parameters, inputs and state, with what the variant adds to them."""
    layer, count = equations(core, gating), 2 if variant == "stacked" else 1
    params = [
        random_params(layer, INPUTS if k == 0 else D, D, rng, layer_norm=layer_norm)
        for k in range(count)
    ]
    states = [random_state(layer, B, D, rng) for _ in range(count)]
    numbers = (0.5, 0.05) if core == "lstm" else 0.1
    masks = tuple((rng.random((2, T, B, D)) < 0.5).astype(float))
    masks = masks if core == "lstm" else masks[1]
    zoneout = {"evaluation": [numbers], "draws": [masks], "stacked": [masks, numbers]}.get(variant)
    resets = rng.random((T, B)) < 0.4
    resets[1, 0], resets[0, 1] = True, True
    single = count == 1
    return SimpleNamespace(
        core=core,
        gating=gating,
        layer=layer,
        point={
            "params": params[0] if single else params,
            "x": rng.standard_normal((T, B, INPUTS)),
            "state": states[0] if single else states,
        },
        resets=resets if variant in ("resets", "stacked") else None,
        zoneout=zoneout[0] if single and zoneout else zoneout,
        single=single,
    )


def run(case, point=None, **options):
    """(output, state, pullback) of the NumPy backend on a case, at `point` if given."""
    point = case.point if point is None else point
    options |= {"resets": case.resets, "zoneout": case.zoneout}
    return LAYERS[case.core](point["params"], point["x"], point["state"], case.gating, **options)


def gradient(pullback, weights):
    """The cotangents of a pullback as a nest of the form of `case.point`."""
    d_params, d_x, d_state = pullback(*weights)
    return {"params": d_params, "x": d_x, "state": d_state}


def reference_run(case, point, m=None):
    """The reference's traces of a case, one for each layer, at `point`."""
    as_list = (lambda value: [value]) if case.single else (lambda value: value)
    point = nested(point)
    return reference.run_stacked(
        case.layer,
        as_list(point["params"]),
        point["x"],
        as_list(point["state"]),
        nested(case.resets),
        None if case.zoneout is None else as_list(nested(case.zoneout)),
        *([] if m is None else [m]),
    )


def reference_result(case, point, m=None):
    """(outputs, states) of the reference in the form a backend returns them."""
    traces = reference_run(case, point, m)
    states = [trace.state for trace in traces]
    states = [tuple(map(np.array, s)) if case.core == "lstm" else np.array(s) for s in states]
    return np.array(traces[-1].outputs), states[0] if case.single else states


def random_like(tree, rng):
    """A nest of equal form with normal entries."""
    return rebuild(tree, iter([rng.standard_normal(np.shape(leaf)) for leaf in leaves(tree)]))


def complex_step_slope(case, weights, direction):
    """d ⟨weights, result⟩ along `direction`, by the complex step through the reference."""
    step = 1e-30
    result = reference_result(case, moved(case.point, direction, 1j * step), cmath)
    pairs = zip(leaves(weights), leaves(result), strict=True)
    return sum(float(np.sum(w * r.imag)) for w, r in pairs) / step


def central_slope(function, point, direction, step=1e-5):
    """d function / d direction, by a central difference."""
    ahead, behind = (function(moved(point, direction, sign * step)) for sign in (1, -1))
    return (ahead - behind) / (2 * step)


def size(tree):
    """The Euclidean norm of a nest."""
    return np.sqrt(inner(tree, tree))


def single_precision(tree):
    """The nest in float32."""
    return rebuild(tree, iter([leaf.astype(np.float32) for leaf in leaves(tree)]))


def assert_is_the_transcription(case):
    """The layer's outputs, last states and gates are the reference's. What `run` returns."""
    output, state, pullback = run(case)
    expected_output, expected_state = reference_result(case, case.point)
    assert norm_error(output, expected_output) < 1e-12
    for got, expected in zip(leaves(state), leaves(expected_state), strict=True):
        assert norm_error(got, expected) < 1e-12
    gates = [pullback.gates()] if case.single else pullback.gates()
    for gate, trace in zip(gates, reference_run(case, case.point), strict=True):
        assert norm_error(gate.value, trace.forget) < 1e-12
        assert norm_error(gate.complement, 1 - np.array(trace.forget)) < 1e-12
    return output, state, pullback


def assert_pullback_is_the_derivative(case, rng, directions=2):
    """Of the reference, along random directions in everything, by the complex step."""
    *result, pullback = run(case)
    weights = random_like(tuple(result), rng)
    slopes = gradient(pullback, weights)
    for _ in range(directions):
        direction = random_like(case.point, rng)
        expected = complex_step_slope(case, weights, direction)
        assert abs(inner(slopes, direction) - expected) < 1e-12 * size(slopes) * size(direction)


def assert_every_slope_is_a_difference(case, rng):
    """Every entry of the gradient is a central difference of the layer."""
    *result, pullback = run(case)
    weights = random_like(tuple(result), rng)
    for array, slope in zip(leaves(case.point), leaves(gradient(pullback, weights)), strict=True):
        expected = np.empty_like(array)
        for index in np.ndindex(array.shape):
            old, values = array[index], []
            for shift in (1e-5, -1e-5):
                array[index] = old + shift
                values.append(inner(tuple(run(case)[:2]), weights))
            array[index] = old
            expected[index] = (values[0] - values[1]) / 2e-5
        assert norm_error(slope, expected) < 1e-6


def assert_float32_is_close(case, rng):
    """Results and gradients in float32 are those in float64 to 1e-5."""
    *result, pullback = run(case)
    weights = random_like(tuple(result), rng)
    exact = leaves((*result, gradient(pullback, weights)))
    *result, pullback = run(case, single_precision(case.point))
    got = leaves((*result, gradient(pullback, single_precision(weights))))
    for value, expected in zip(got, exact, strict=True):
        assert value.dtype == np.float32
        assert norm_error(value, expected) < 1e-5
