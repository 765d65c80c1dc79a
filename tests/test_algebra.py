"""The gate algebra: identities, scalars, SymPy expressions, derivatives, errors."""

import mpmath
import numpy as np
import pytest
import sympy

import gatecore
from gatecore import Gate, both, cumax, either, logit, master, mix, negate, refine, sigmoid
from tests.support import both_sides, relative_error

# --- identities ---------------------------------------------------------------------------------


def test_refine_is_a_mix_of_or_and_and(arrays, rng):
    f, r = (sigmoid(arrays.array(z)) for z in rng.uniform(-40, 40, (2, 200)))
    got, expected = refine(f, r), mix(r, either(f, f), both(f, f))
    for side, exact in zip(both_sides(arrays, got), both_sides(arrays, expected), strict=True):
        assert relative_error(side, exact) < 1e-15


def test_negate_exchanges_the_sides(arrays):
    gate = sigmoid(arrays.array([-3.0, 0.0, 5.0]))
    assert negate(gate) == Gate(gate.complement, gate.value)


def test_timescale_is_the_inverse_of_the_complement_and_infinite_at_one(arrays):
    gate = Gate(arrays.array([0.0, 0.75, 1.0, 1.0]), arrays.array([1.0, 0.25, 1e-12, 0.0]))
    assert arrays.numpy(gatecore.timescale(gate)).tolist() == [1.0, 4.0, 1e12, np.inf]


def test_logit_inverts_sigmoid(arrays):
    z = np.linspace(-40, 40, 161)
    assert np.max(np.abs(arrays.numpy(logit(sigmoid(arrays.array(z)))) - z)) < 1e-14 * 40


def test_logit_is_infinite_at_the_ends(arrays):
    assert arrays.numpy(logit(arrays.array([0.0, 0.5, 1.0]))).tolist() == [-np.inf, 0, np.inf]


def test_plain_arrays_are_gates_with_complement_one_minus(arrays, rng):
    plain = [arrays.array(u) for u in rng.uniform(0, 1, (4, 50))]
    gates = [Gate(u, 1 - u) for u in plain]
    for function in (both, either, refine):
        results = function(*plain[:2]), function(*gates[:2])
        assert np.array_equal(*(both_sides(arrays, gate) for gate in results))
    assert np.array_equal(*(both_sides(arrays, mix(*g[:3])) for g in (plain, gates)))
    assert np.array_equal(*(both_sides(arrays, negate(g[0])) for g in (plain, gates)))
    for one, other in zip(master(*plain), master(*gates), strict=True):
        assert np.array_equal(both_sides(arrays, one), both_sides(arrays, other))


@pytest.mark.parametrize("axis", [0, 1, -1, -2])
@pytest.mark.parametrize("downsize", [1, 3])
def test_cumax_runs_along_any_axis_and_repeats_its_entries(arrays, rng, axis, downsize):
    logits = rng.standard_normal((4, 5))
    got = both_sides(arrays, cumax(arrays.array(logits), axis=axis, downsize=downsize))
    weights = np.exp(logits) / np.exp(logits).sum(axis=axis, keepdims=True)
    value = np.repeat(np.cumsum(weights, axis=axis), downsize, axis=axis)
    assert np.max(np.abs(got[0] - value)) < 1e-15
    assert np.max(np.abs(got[1] - (1 - value))) < 1e-15


@pytest.mark.parametrize(
    "scalar",
    [
        0.25,
        np.float64(0.25),
        np.float32(0.25),
        np.array(0.25),
        np.array(0.25, dtype=np.float32),
    ],
    ids=lambda s: f"{type(s).__name__}-{getattr(s, 'dtype', '')}",
)
def test_scalars_are_accepted_in_their_precision(scalar):
    dtype = getattr(scalar, "dtype", np.float64)
    gates = [sigmoid(scalar), refine(scalar, scalar), both(scalar, scalar), *master(*[scalar] * 4)]
    for side in [side for gate in gates for side in gate] + [logit(scalar)]:
        assert np.shape(side) == ()
        assert side.dtype == dtype
    assert gates[0].value == pytest.approx(0.5621765008857981, rel=1e-7)
    assert gates[1].value == pytest.approx(0.25 * (0.25 + 2 * 0.25 * 0.75))


def test_zero_dimensional_arrays_of_any_library_are_accepted(arrays):
    gate = refine(sigmoid(arrays.array(0.5)), sigmoid(arrays.array(-0.5)))
    assert gate.value.shape == gate.complement.shape == ()


def test_arguments_broadcast(arrays):
    gate = refine(sigmoid(arrays.array(np.zeros((3, 1)))), sigmoid(arrays.array(np.zeros(4))))
    assert tuple(gate.value.shape) == tuple(gate.complement.shape) == (3, 4)


# --- the same functions on SymPy expressions ----------------------------------------------------

X, Y = sympy.symbols("x y", real=True)
BIG_F, BIG_I, f, i, r = sympy.symbols("F I f i r", positive=True)


def vanishes(expression):
    return sympy.simplify(sympy.expand(expression)) == 0


def test_symbolic_sigmoid_is_the_logistic_function():
    gate = sigmoid(X)
    assert vanishes(gate.value - 1 / (1 + sympy.exp(-X)))
    assert vanishes(gate.value + gate.complement - 1)


def test_symbolic_refine_is_equation_12_and_16():
    g = refine(f, r)
    assert vanishes(g.value - (r * (1 - (1 - f) ** 2) + (1 - r) * f**2))  # (12)
    assert vanishes(g.value - (f + f * (1 - f) * (2 * r - 1)))  # (16)
    assert vanishes(g.value + g.complement - 1)


def test_symbolic_refine_is_a_mix_of_or_and_and():
    g, m = refine(f, r), mix(r, either(f, f), both(f, f))
    assert vanishes(g.value - m.value)
    assert vanishes(g.complement - m.complement)


def test_symbolic_master_is_equations_21_to_23():
    forget, input_ = master(BIG_F, BIG_I, f, i)
    omega = BIG_F * BIG_I  # (21)
    assert vanishes(forget.value - (f * omega + (BIG_F - omega)))  # (22)
    assert vanishes(input_.value - (i * omega + (BIG_I - omega)))  # (23)
    assert vanishes(forget.value + forget.complement - 1)
    assert vanishes(input_.value + input_.complement - 1)


@pytest.mark.parametrize(
    "gate",
    [both(f, r), either(f, r), mix(r, f, i), negate(f)],
    ids=["both", "either", "mix", "negate"],
)
def test_symbolic_sides_sum_to_one(gate):
    assert vanishes(gate.value + gate.complement - 1)


def test_symbolic_cumax_is_the_cumulative_sum_of_the_softmax():
    logits = sympy.symbols("z1:4", real=True)
    gate = cumax(np.array(logits, dtype=object))
    weights = [sympy.exp(z) for z in logits]
    for j in range(3):
        assert vanishes(gate.value[j] - sum(weights[: j + 1]) / sum(weights))
        assert vanishes(gate.value[j] + gate.complement[j] - 1)


def test_symbolic_logit_inverts_sigmoid_and_timescale_is_one_over_one_minus():
    assert vanishes(sympy.expand_log(sympy.simplify(logit(sigmoid(X)))) - X)
    assert vanishes(gatecore.timescale(f) - 1 / (1 - f))


# --- derivatives under each library's own differentiation ---------------------------------------


def exact_sigmoids(logits):
    with mpmath.workdps(60):
        return [1 / (1 + mpmath.exp(-mpmath.mpf(float(z)))) for z in logits]


STEEP = [0.0, 100.0, -100.0, 1000.0, -1000.0]
MODERATE = [0.5, -0.5, 2.0, -2.0, 8.0, -8.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("side", [0, 1], ids=["value", "complement"])
def test_automatic_differentiation_of_sigmoid_is_right_at_any_logit(autodiff, dtype, side):
    x = np.array(STEEP + MODERATE, dtype=dtype)
    (got,) = autodiff.gradients(lambda z: (sigmoid(z)[side],), [x], [np.ones_like(x)])
    exact = (1 - 2 * side) * np.array([float(s * (1 - s)) for s in exact_sigmoids(x)])
    assert got.dtype == dtype
    assert np.max(np.abs(got - exact)) <= np.finfo(dtype).eps  # NaN fails


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_automatic_differentiation_of_refine_is_right_at_any_logits(autodiff, dtype):
    x, y = (a.ravel() for a in np.meshgrid(STEEP + MODERATE, STEEP + MODERATE))
    x, y = x.astype(dtype), y.astype(dtype)
    got = autodiff.gradients(
        lambda a, b: refine(sigmoid(a), sigmoid(b)), [x, y], [np.ones_like(x), np.zeros_like(x)]
    )
    f_, r_ = (np.array([float(s) for s in exact_sigmoids(z)]) for z in (x, y))
    slope = 2 * f_ * (1 - f_)
    assert np.max(np.abs(got[0] - slope * (r_ + f_ - 2 * r_ * f_))) <= 4 * np.finfo(dtype).eps
    assert np.max(np.abs(got[1] - slope * r_ * (1 - r_))) <= 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("z", [*STEEP, 1.0, -3.0])
def test_automatic_differentiation_of_cumax_is_right_at_any_logit(autodiff, dtype, z):
    logits, weights = np.array([z, 0.0, 1.0], dtype=dtype), np.array([0.5, -1.0, 2.0], dtype)
    got = autodiff.gradients(lambda a: cumax(a), [logits], [weights, np.zeros_like(weights)])
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    p = shifted / shifted.sum()
    value = np.cumsum(p)
    jacobian = np.tri(3) * p - np.outer(value, p)  # d value_j / d z_k
    assert np.max(np.abs(got[0] - weights @ jacobian)) <= 8 * np.finfo(dtype).eps


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (lambda: sigmoid("0.5"), "logit must be an array"),
        (lambda: sigmoid(None), "logit must be an array"),
        (lambda: sigmoid(np.arange(3)), "logit must have a real floating dtype, got int64"),
        (lambda: sigmoid(np.ones(3, dtype=complex)), "logit must have a real floating dtype"),
        (lambda: refine([0.5], 0.5), "forget must be an array"),
        (lambda: refine(0.5, True), "refine must be an array"),
        (lambda: both(0.5, "a"), "b must be an array"),
        (lambda: mix(0.5, {}, 0.5), "high must be an array"),
        (lambda: cumax(np.zeros(3), downsize=1.5), "downsize must be an integer"),
    ],
)
def test_errors_name_an_argument_of_the_wrong_type(bad, complaint):
    with pytest.raises(TypeError, match=complaint):
        bad()


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (lambda: cumax(0.5), "logit must have an axis"),
        (lambda: cumax(np.zeros(3), downsize=0), "downsize must be at least 1"),
        (lambda: cumax(np.zeros((2, 3)), axis=2), "axis"),
        (lambda: refine(np.zeros(3), np.zeros(4)), "shape|broadcast"),
    ],
)
def test_errors_name_an_argument_out_of_range(bad, complaint):
    with pytest.raises(ValueError, match=complaint):
        bad()
