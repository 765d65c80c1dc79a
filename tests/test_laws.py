"""Laws of the gate algebra, for any logits: closure, symmetry, bounds, monotonicity.

Where rounding enters, a law holds up to a stated number of units in the last place (`EPS` is one,
relative to 1); where it does not, the law is exact.
"""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gatecore import (
    Gate,
    both,
    cumax,
    either,
    logit,
    master,
    mix,
    negate,
    refine,
    sigmoid,
    timescale,
)

EPS = np.finfo(np.float64).eps
ONE, ZERO = Gate(np.float64(1), np.float64(0)), Gate(np.float64(0), np.float64(1))

settings.register_profile("laws", deadline=None, max_examples=150, derandomize=True)
settings.load_profile("laws")

logits = st.one_of(
    st.floats(-40, 40),
    st.floats(-1000, 1000),
    st.sampled_from([0.0, -0.0, 1e-300, 700.0, -750.0, 1e4, -1e4, 1e300, -1e300, np.inf, -np.inf]),
).map(np.float64)
gates = logits.map(sigmoid)
vectors = hnp.arrays(
    np.float64,
    st.integers(1, 12),
    elements=st.one_of(st.floats(-40, 40), st.sampled_from([-1e4, 1e4, -1e300, 1e300, 0.0])),
)


def is_gate(gate, ulp=2):
    """Both sides in [0, 1] and together 1, up to `ulp`."""
    low = min(np.min(gate.value), np.min(gate.complement))
    high = max(np.max(gate.value), np.max(gate.complement))
    total = np.max(np.abs(gate.value + gate.complement - 1))
    return low >= 0 and high <= 1 + ulp * EPS and total <= 2 * ulp * EPS


def same(a, b):
    """Equal to the last bit, both sides."""
    return np.array_equal(a.value, b.value) and np.array_equal(a.complement, b.complement)


def close(a, b, ulp):
    """Equal up to `ulp` units, relative to each side: tiny sides agree as well as large ones."""
    return all(
        np.all(np.abs(x - y) <= ulp * EPS * np.maximum(x, y) + 1e-307)
        for x, y in zip(a, b, strict=True)
    )


def at_most(a, b, ulp=0):
    """a ≤ b in both sides' view: the value is not larger, the complement not smaller."""
    slack = 1 + ulp * EPS
    return np.all(a.value <= b.value * slack + 1e-307) and np.all(
        b.complement <= a.complement * slack + 1e-307
    )


@given(logits)
def test_sigmoid_yields_a_gate_at_any_logit_also_infinite_ones(x):
    assert is_gate(sigmoid(x), ulp=1)


@given(gates, gates, gates, gates)
def test_the_algebra_is_closed(a, b, c, d):
    results = [negate(a), both(a, b), either(a, b), mix(a, b, c), refine(a, b), *master(a, b, c, d)]
    assert all(is_gate(gate) for gate in results)


@given(logits)
def test_a_negated_logit_negates_the_gate(x):
    assert same(sigmoid(-x), negate(sigmoid(x)))


@given(gates)
def test_negation_is_an_involution(a):
    assert same(negate(negate(a)), a)


@given(gates, gates)
def test_or_is_and_under_negation(a, b):
    assert same(either(a, b), negate(both(negate(a), negate(b))))
    assert same(negate(either(a, b)), both(negate(a), negate(b)))


@given(gates, gates, gates)
def test_and_is_commutative_and_associative(a, b, c):
    assert close(both(a, b), both(b, a), ulp=4)
    assert close(both(a, both(b, c)), both(both(a, b), c), ulp=8)


@given(gates, gates)
def test_one_and_zero_are_neutral_and_select(a, b):
    assert same(both(a, ONE), a)
    assert same(both(ONE, a), a)
    assert same(either(a, ZERO), a)
    assert both(a, ZERO).value == 0
    assert same(mix(ONE, a, b), a)
    assert same(mix(ZERO, a, b), b)


@given(gates, gates)
def test_a_mix_of_equal_gates_is_that_gate(a, b):
    assert close(mix(a, b, b), b, ulp=4)


@given(gates, gates)
def test_refine_is_symmetric_under_negation(f, r):
    assert same(refine(negate(f), negate(r)), negate(refine(f, r)))


@given(gates, gates)
def test_refine_stays_between_the_square_and_the_complement_of_the_squared_complement(f, r):
    g = refine(f, r)
    assert at_most(both(f, f), g, ulp=4)
    assert at_most(g, either(f, f), ulp=4)


@given(gates)
def test_refine_reaches_its_band_at_the_ends_and_leaves_the_gate_alone_in_the_middle(f):
    assert close(refine(f, ONE), either(f, f), ulp=4)
    assert close(refine(f, ZERO), both(f, f), ulp=4)
    assert close(refine(f, sigmoid(np.float64(0))), f, ulp=4)


@given(gates, st.tuples(logits, logits).map(sorted))
def test_refine_rises_with_the_refine_gate(f, pair):
    lower, upper = (sigmoid(y) for y in pair)
    assert at_most(refine(f, lower), refine(f, upper), ulp=4)


@given(gates, st.tuples(logits, logits).map(sorted))
def test_refine_rises_with_the_forget_gate(r, pair):
    lower, upper = (sigmoid(x) for x in pair)
    assert at_most(refine(lower, r), refine(upper, r), ulp=8)


@given(gates, gates, gates, gates)
def test_master_treats_forget_and_input_alike(big_f, big_i, f, i):
    forget, input_ = master(big_f, big_i, f, i)
    assert all(map(same, master(big_i, big_f, i, f), (input_, forget)))


@given(gates, gates, gates, gates)
def test_effective_master_gates_stay_below_their_masters(big_f, big_i, f, i):
    forget, input_ = master(big_f, big_i, f, i)
    assert at_most(forget, big_f, ulp=4)
    assert at_most(input_, big_i, ulp=4)


@given(gates, gates)
def test_tied_masters_with_tied_inner_gates_are_proposition_3s_unrescaled_form(big_f, f):
    forget, input_ = master(big_f, negate(big_f), f, negate(f))
    omega = big_f.value * big_f.complement
    assert abs(forget.value + input_.value - (1 - omega)) <= 8 * EPS


@given(gates)
def test_timescale_is_at_least_one_step(g):
    assert timescale(g) >= 1 - EPS


@given(st.floats(-700, 700).map(np.float64))
def test_logit_inverts_sigmoid_up_to_the_gates_own_rounding(x):
    assert abs(logit(sigmoid(x)) - x) <= 4 * EPS * max(1, abs(x))


@given(vectors)
@example(np.array([1e300, -1e300, 1e300]))
def test_cumax_is_a_gate_that_never_leaves_the_unit_interval(z):
    gate = cumax(z)
    assert np.all((gate.value >= 0) & (gate.value <= 1))
    assert np.all((gate.complement >= 0) & (gate.complement <= 1))
    assert is_gate(gate, ulp=1)


@given(vectors)
def test_cumax_rises_and_ends_at_exactly_one(z):
    gate = cumax(z)
    for k in range(len(z) - 1):
        here, next_ = (Gate(gate.value[j], gate.complement[j]) for j in (k, k + 1))
        assert at_most(here, next_, ulp=2)
    assert gate.value[-1] == 1
    assert gate.complement[-1] == 0


@given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=st.integers(-40, 40)), st.integers(-40, 40)
)
def test_cumax_is_invariant_to_a_common_shift(z, shift):
    assert same(cumax(z + shift), cumax(z))


@given(vectors)
def test_cumax_of_the_reversed_logits_is_the_complement_shifted_by_one(z):
    forward, backward = cumax(z), cumax(z[::-1])
    shifted = np.concatenate([[1.0], forward.complement[:-1]])
    assert np.all(np.abs(backward.value[::-1] - shifted) <= 16 * EPS)


@given(vectors, st.integers(1, 5))
def test_downsizing_gives_unit_k_the_entry_k_over_c(z, downsize):
    gate, wide = cumax(z), cumax(z, downsize=downsize)
    units = np.arange(len(z) * downsize) // downsize
    assert same(wide, Gate(gate.value[units], gate.complement[units]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x", [-np.inf, -1e30, -1e4, -104.0, -89.0, 0.0, 89.0, 104.0, 1e4, np.inf])
def test_extreme_logits_give_exact_or_tiny_sides_without_a_warning(dtype, x):
    gate = sigmoid(dtype(x))
    exact = 1 / (1 + np.exp(np.longdouble(-x))) if x > -1e4 else 0
    tiny = np.finfo(dtype).tiny
    assert abs(gate.value - exact) <= 4 * np.finfo(dtype).eps * exact + tiny
    assert same(negate(gate), sigmoid(dtype(-x)))
    assert is_gate(refine(gate, gate), ulp=2 * np.finfo(dtype).eps / EPS)
