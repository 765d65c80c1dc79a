"""The vector-Jacobian products are the derivatives of their functions."""

import cmath

import numpy as np
import pytest
import sympy

from gatecore import (
    Gate,
    cumax,
    cumax_vjp,
    master,
    master_vjp,
    refine,
    refine_vjp,
    sigmoid,
    sigmoid_vjp,
)
from tests import reference
from tests.support import column, floats, load, norm_error, relative_error

STEP = 1e-30  # of complex-step derivatives, which lose nothing to rounding


def slopes(function, point):
    """d function / d each coordinate of `point`, one row per result, by the complex step."""
    rows = []
    for k in range(len(point)):
        moved = [complex(p, STEP if j == k else 0) for j, p in enumerate(point)]
        rows.append([result.imag / STEP for result in function(moved)])
    return np.array(rows).T


# --- against the high-precision vectors ---------------------------------------------------------


def test_refine_vjp_chained_with_sigmoid_vjp_gives_the_vectors_derivatives(arrays):
    cases = load("refine")["cases"]
    x, y = arrays.array(column(cases, "x")), arrays.array(column(cases, "y"))
    ones = arrays.array(np.ones(len(cases)))
    d_forget, d_refine = refine_vjp(sigmoid(x), sigmoid(y), ones)
    d_x, d_y = arrays.numpy(sigmoid_vjp(x, d_forget)), arrays.numpy(sigmoid_vjp(y, d_refine))
    assert relative_error(d_x, column(cases, "dg_dx")) < 1e-13
    assert relative_error(d_y, column(cases, "dg_dy")) < 1e-13


@pytest.mark.parametrize("dtype", ["float32"])
def test_refines_derivatives_err_by_at_most_8_ulp_in_float32_from_rounded_gates(arrays, dtype):
    cases = load("refine")["cases"]
    f, r = (
        Gate(*(arrays.array(column(cases, side), dtype) for side in (own, f"one_minus_{own}")))
        for own in ("f", "r")
    )
    d_forget, d_refine = refine_vjp(f, r, arrays.array(np.ones(len(cases)), dtype))
    d_x, d_y = (
        arrays.numpy(d * gate.value * gate.complement) for d, gate in ((d_forget, f), (d_refine, r))
    )
    assert relative_error(d_x, column(cases, "dg_dx")) <= 8 * 2.0**-24
    assert relative_error(d_y, column(cases, "dg_dy")) <= 8 * 2.0**-24


@pytest.mark.parametrize("case", load("cumax")["cases"], ids=lambda case: case["name"])
def test_cumax_vjp_agrees_with_the_vectors(arrays, case):
    logits, v = arrays.array(case["logits"]), arrays.array(case["v"])
    nothing = arrays.array(np.zeros(len(case["v"])))
    of_value = cumax_vjp(logits, Gate(v, nothing), downsize=case["C"])
    of_complement = cumax_vjp(logits, Gate(nothing, v), downsize=case["C"])
    assert norm_error(arrays.numpy(of_value), floats(case["vjp_logits_of_f"])) < 1e-13
    expected = floats(case["vjp_logits_of_one_minus_f"])
    assert norm_error(arrays.numpy(of_complement), expected) < 1e-13


# --- against the paper's formulas, by SymPy and by complex steps --------------------------------


def test_refine_vjp_is_the_symbolic_derivative():
    f, r, v = sympy.symbols("f r v")
    value = refine(f, r).value
    d_forget, d_refine = refine_vjp(f, r, v)
    assert sympy.expand(d_forget - v * sympy.diff(value, f)) == 0
    assert sympy.expand(d_refine - v * sympy.diff(value, r)) == 0


def test_master_vjp_is_the_symbolic_derivative():
    four, (a, b) = sympy.symbols("F I f i"), sympy.symbols("a b")
    forget, input_ = master(*four)
    for cotangent, symbol in zip(master_vjp(*four, a, b), four, strict=True):
        expected = a * sympy.diff(forget.value, symbol) + b * sympy.diff(input_.value, symbol)
        assert sympy.expand(cotangent - expected) == 0


def test_sigmoid_vjp_is_the_symbolic_derivative():
    x, v = sympy.symbols("x v", real=True)
    assert sympy.simplify(sigmoid_vjp(x, v) - v * sympy.diff(sigmoid(x).value, x)) == 0


def test_vjps_from_logits_are_the_complex_step_derivatives_of_the_printed_equations(arrays, rng):
    logits, (a, b) = rng.normal(0, 3, (4, 7)), rng.standard_normal((2, 7))
    gates = [sigmoid(arrays.array(z)) for z in logits]
    d_values = master_vjp(*gates, arrays.array(a), arrays.array(b))
    d_refined = refine_vjp(*gates[:2], arrays.array(a))
    for k in range(logits.shape[1]):
        point = logits[:, k].tolist()
        jacobian = slopes(
            lambda z: reference.mastered(*(reference.sigmoid(s, cmath) for s in z)), point
        )
        for slot, d in enumerate(d_values):
            got = arrays.numpy(sigmoid_vjp(arrays.array(logits[slot]), d))[k]
            assert got == pytest.approx(np.array([a[k], b[k]]) @ jacobian[:, slot], rel=1e-12)
        jacobian = slopes(
            lambda z: [reference.refined(*(reference.sigmoid(s, cmath) for s in z))], point[:2]
        )
        for slot, d in enumerate(d_refined):
            got = arrays.numpy(sigmoid_vjp(arrays.array(logits[slot]), d))[k]
            assert got == pytest.approx(a[k] * jacobian[0, slot], rel=1e-12)


@pytest.mark.parametrize(("axis", "downsize"), [(-1, 1), (0, 1), (1, 3), (0, 2)])
def test_cumax_vjp_is_the_complex_step_derivative_along_any_axis(arrays, rng, axis, downsize):
    logits = rng.normal(0, 2, (4, 5))
    v = rng.standard_normal(np.repeat(logits, downsize, axis=axis).shape)
    got = cumax_vjp(arrays.array(logits), arrays.array(v), axis=axis, downsize=downsize)
    got = np.moveaxis(arrays.numpy(got), axis, -1)
    lines = zip(np.moveaxis(logits, axis, -1), np.moveaxis(v, axis, -1), strict=True)
    for row, (line, cotangent) in enumerate(lines):
        jacobian = slopes(
            lambda z: reference.repeated(reference.cumax(z, cmath), downsize), line.tolist()
        )
        assert norm_error(got[row], cotangent @ jacobian) < 1e-13


# --- against the libraries' own differentiation -------------------------------------------------


def agree(cotangents, automatic):
    for one, other in zip(cotangents, automatic, strict=True):
        assert norm_error(one, other) < 1e-13


def test_sigmoid_vjp_agrees_with_automatic_differentiation(autodiff, rng):
    x, a, b = rng.normal(0, 4, (3, 30))
    agree([sigmoid_vjp(x, Gate(a, b))], autodiff.gradients(sigmoid, [x], [a, b]))


@pytest.mark.parametrize("downsize", [1, 2])
def test_cumax_vjp_agrees_with_automatic_differentiation(autodiff, rng, downsize):
    z, (a, b) = rng.normal(0, 4, (3, 6)), rng.standard_normal((2, 3, 6 * downsize))
    automatic = autodiff.gradients(lambda t: cumax(t, downsize=downsize), [z], [a, b])
    agree([cumax_vjp(z, Gate(a, b), downsize=downsize)], automatic)


def from_logits(*logits):
    """Gates from logits, so that automatic differentiation sees both sides of each."""
    return [sigmoid(z) for z in logits]


def test_refine_vjp_agrees_with_automatic_differentiation(autodiff, rng):
    x, y, a, b = rng.normal(0, 4, (4, 30))
    automatic = autodiff.gradients(lambda *z: refine(*from_logits(*z)), [x, y], [a, b])
    explicit = refine_vjp(sigmoid(x), sigmoid(y), Gate(a, b))
    agree([sigmoid_vjp(z, d) for z, d in zip((x, y), explicit, strict=True)], automatic)


def test_master_vjp_agrees_with_automatic_differentiation(autodiff, rng):
    logits, (a, b, c, d) = rng.normal(0, 4, (4, 30)), rng.standard_normal((4, 30))

    def sides(*z):
        forget, input_ = master(*from_logits(*z))
        return *forget, *input_

    automatic = autodiff.gradients(sides, list(logits), [a, b, c, d])
    explicit = master_vjp(*from_logits(*logits), Gate(a, b), Gate(c, d))
    agree([sigmoid_vjp(z, v) for z, v in zip(logits, explicit, strict=True)], automatic)


# --- cotangents ---------------------------------------------------------------------------------


def test_a_pair_of_cotangents_counts_as_its_difference(rng):
    x, y, a, b = rng.standard_normal((4, 6))
    gates = sigmoid(x), sigmoid(y)
    pairs, arrays_ = (Gate(a, b), Gate(b, a)), (a - b, b - a)
    assert np.array_equal(sigmoid_vjp(x, pairs[0]), sigmoid_vjp(x, arrays_[0]))
    assert np.array_equal(cumax_vjp(x, pairs[0]), cumax_vjp(x, arrays_[0]))
    assert np.array_equal(refine_vjp(*gates, pairs[0]), refine_vjp(*gates, arrays_[0]))
    four = gates * 2
    assert np.array_equal(master_vjp(*four, *pairs), master_vjp(*four, *arrays_))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_vjps_stay_finite_at_extreme_logits(arrays, dtype):
    z = np.array([0.0, 100.0, -100.0, 1000.0, -1000.0])
    x, y = (arrays.array(a.ravel(), dtype) for a in np.meshgrid(z, z))
    one = arrays.array(np.ones(25), dtype)
    for d in refine_vjp(sigmoid(x), sigmoid(y), one):
        result = arrays.numpy(sigmoid_vjp(x, d))
        assert result.dtype == dtype
        assert np.all(np.isfinite(result))
    assert np.all(np.isfinite(arrays.numpy(cumax_vjp(x, one))))
