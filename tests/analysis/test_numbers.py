"""The public functions agree with high-precision values to 1e-12 over their range."""

import itertools
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from scipy import integrate, stats

import gatecore
from gatecore import Gate
from gatecore.analysis import (
    expected_gates,
    gradient_bounds,
    initial_gate_density,
    ordered,
    sample_timescales,
    saturation,
    timescale_quantile,
)

ENDS = [1e-300, 1e-100, 1e-30, 1e-12, 1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.1, 0.3, 0.45, 0.5]
OPPOSED = gatecore.mechanism("UR", refine_bias="opposed")
SAMPLED = [
    *gatecore.MECHANISMS.values(),
    *map(gatecore.mechanism, ("M", "CR", "CM")),
    OPPOSED,
    gatecore.mechanism("UR", refine_bias="neutral"),
    gatecore.mechanism("R", refine_bias="uniform"),
    gatecore.mechanism("R", refine_bias="opposed"),
    gatecore.mechanism("CR", refine_bias="opposed"),
    gatecore.mechanism("OR", refine_bias="opposed"),
    gatecore.mechanism("OM", downsize=4),
    gatecore.mechanism("C", t_max=None),
    gatecore.mechanism("C", t_max=500),
]


# ---- gradient bounds -------------------------------------------------------------------------


def mp_ratio(e, a):
    """‖∇g‖ / (g(1 − g)) where 1 − g = e and 1 − f = a, from Appendix C's first line."""
    f = 1 - a
    r = 1 - (e - a * a) / (2 * a * f)
    by_forget = 2 * f * a * (r + (1 - 2 * r) * f)
    by_refine = 2 * f * r * (1 - r) * a
    return mpmath.sqrt(by_forget**2 + by_refine**2) / (e * (1 - e))


def mp_least(e):
    """Golden-section search between r = 0 and f = g, at a precision that suits e."""
    with mpmath.workdps(60 + 2 * int(-mpmath.log10(e))):
        e = mpmath.mpf(e)
        low, high = 1 - mpmath.sqrt(1 - e), e
        golden = (mpmath.sqrt(5) - 1) / 2
        for _ in range(110):
            left, right = high - golden * (high - low), low + golden * (high - low)
            if mp_ratio(e, left) < mp_ratio(e, right):
                high = right
            else:
                low = left
        return float(mp_ratio(e, (low + high) / 2))


@pytest.mark.parametrize("e", ENDS)
def test_gradient_bounds_near_both_ends(e):
    upper = 2 / (1 + mpmath.sqrt(mpmath.mpf(e)))
    gates = Gate(np.array([e, 1 - e]), np.array([1 - e, e]))
    bounds = gradient_bounds(gates)
    np.testing.assert_allclose(bounds[1], float(upper), rtol=1e-15)
    np.testing.assert_allclose(bounds[0], mp_least(e), rtol=1e-12)
    np.testing.assert_allclose(gradient_bounds(e), [bounds[0][0], bounds[1][0]], rtol=1e-15)


@pytest.mark.parametrize("e", [1e-6, 1e-3, 0.2])
def test_gradient_bounds_of_plain_values_near_one(e):
    g = 1 - e  # the distance of this float from 1 is exact
    np.testing.assert_allclose(gradient_bounds(g)[0], mp_least(1 - g), rtol=1e-12)


def test_random_refine_gates_are_within_the_gradient_bounds(rng):
    f, r = rng.random((2, 20000))
    g = gatecore.refine(f, r)
    by_forget, by_refine = gatecore.refine_vjp(f, r, np.ones_like(f))
    norm = np.hypot(by_forget * f * (1 - f), by_refine * r * (1 - r))
    ratio = norm / (g.value * g.complement)
    lower, upper = gradient_bounds(g)
    assert np.all(ratio >= lower * (1 - 1e-12))
    assert np.all(ratio <= upper * (1 + 1e-12))
    assert np.all(abs(by_forget) * f * (1 - f) >= g.value * g.complement * (1 - 1e-12))


def test_gradient_bounds_at_the_very_ends_are_the_limits():
    np.testing.assert_array_equal(gradient_bounds([0.0, 1.0]), [[1, 1], [2, 2]])


@pytest.mark.parametrize("wrong", [-0.1, 1.1, np.nan])
def test_gradient_bounds_reject_values_outside_the_unit_interval(wrong):
    with pytest.raises(ValueError, match="must lie in"):
        gradient_bounds([0.5, wrong])


def test_gradient_bounds_reject_unknown_logits():
    with pytest.raises(ValueError, match=r"logits='refine' .* both, forget"):
        gradient_bounds(0.5, logits="refine")


# ---- expected gates --------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 7, 256, 10**5])
def test_expected_gates_are_the_closed_forms(n):
    gates = expected_gates(n)
    j = np.arange(1, n + 1)
    np.testing.assert_allclose(gates.forget, j * (n + j) / (2 * n * n), rtol=1e-13)
    np.testing.assert_allclose(gates.input, (n - j) * (2 * n - j) / (2 * n * n), rtol=1e-13)
    np.testing.assert_allclose(gates.product, j * (n - j) / n**2, rtol=1e-13)
    np.testing.assert_allclose(gates.total, 1 - j * (n - j) / n**2, rtol=1e-13)
    means = [(n + 1) * (5 * n + 1), (n - 1) * (5 * n - 1), 2 * (5 * n * n + 1), 2 * (n * n - 1)]
    np.testing.assert_allclose(gates.means, [x / (12 * n * n) for x in means], rtol=1e-12)


def test_exact_expected_gates_are_fractions():
    gates = expected_gates(6, exact=True)
    assert gates.total[1] == 1 - Fraction(2 * 4, 36)
    assert gates.means.total == Fraction(5 * 36 + 1, 6 * 36)
    assert gates.means.forget == Fraction(7 * 31, 12 * 36)


def test_the_sum_does_not_depend_on_the_inner_gates():
    tilted = expected_gates(6, inner=Fraction(4, 5), exact=True)
    assert list(tilted.total) == list(expected_gates(6, exact=True).total)
    assert tilted.forget[0] != expected_gates(6, exact=True).forget[0]


@pytest.mark.parametrize(("n", "inner"), [(0, 0.5), (2.5, 0.5), (4, 1.5), (4, -0.1)])
def test_expected_gates_reject_invalid_arguments(n, inner):
    with pytest.raises(ValueError, match="must"):
        expected_gates(n, inner=inner)


def test_sampled_gates_have_the_expected_means(rng):
    forget, input = ordered.sample_gates(12, 1.5, rng, 20000)
    for sample, mean in ((forget, expected_gates(12).forget), (input, expected_gates(12).input)):
        error = sample.std(axis=0) / np.sqrt(len(sample))
        assert np.all(abs(sample.mean(axis=0) - mean) < 5 * error + 1e-12)


# ---- timescales ------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", SAMPLED, ids=str)
def test_quantiles_agree_with_sampled_layers(mechanism):
    sample = np.sort(sample_timescales(mechanism, 64, 5, 6400))
    u = (np.arange(6400) + 0.5) / 6400
    # compared as ranks: the fraction of draws up to the quantile, and below it
    quantile = timescale_quantile(mechanism, 64, u)
    step = 1e-9 * np.where(np.isfinite(quantile), quantile, 0)
    low = np.searchsorted(sample, quantile - step, side="left") / 6400
    high = np.searchsorted(sample, quantile + step, side="right") / 6400
    assert np.max(np.maximum(low - u, u - high)) < 2.2 / np.sqrt(6400)


@pytest.mark.parametrize("size", [3, 64, 10**6])
def test_uniform_quantiles_are_exact_to_twelve_digits(size):
    u = np.array([0.0, 1e-15, 1e-6, 0.2, 0.5, 0.9, 1 - 1e-6, 1 - 1e-15, 1.0])
    with mpmath.workdps(40):
        low = mpmath.mpf(1) / size
        gates = [low + mpmath.mpf(float(x)) * (1 - 2 * low) for x in u]
        plain = [float(1 / (1 - f)) for f in gates]
        opposed = [float(1 / (1 - (2 * f - 3 * f**2 + 2 * f**3))) for f in gates]
        masters = [float(2 / ((1 - f) * (2 + f))) for f in gates]
    np.testing.assert_allclose(timescale_quantile("U", size, u), plain, rtol=1e-12)
    np.testing.assert_allclose(timescale_quantile(OPPOSED, size, u), opposed, rtol=1e-12)
    np.testing.assert_allclose(timescale_quantile("UM", size, u), masters, rtol=1e-12)


def mp_refined_cdf(e, size):
    """P(1 − g ≤ e) for f and r independent and uniform in [1/size, 1 − 1/size]."""
    edge = mpmath.mpf(1) / size
    width = 1 - 2 * edge
    root = mpmath.sqrt((1 - edge) ** 2 - width * e)
    start = max(e / (1 - edge + root), edge)
    end = (mpmath.sqrt(edge**2 + width * e) - edge) / width

    def share(a):
        return ((e - a * a) / (2 * a * (1 - a)) - edge) / width

    return (start - edge + mpmath.quad(share, mpmath.linspace(start, end, 5))) / width


@pytest.mark.parametrize("size", [4, 256, 2**20])
@pytest.mark.parametrize("u", [1e-9, 1e-3, 0.2, 0.6, 0.99, 1 - 2.0**-30])
def test_independent_refine_quantiles_are_exact_to_twelve_digits(size, u):
    quantile = timescale_quantile("UR", size, u)
    with mpmath.workdps(40):
        tail = mpmath.mpf(min(u, 1 - u))
        complement = 1 / mpmath.mpf(float(quantile))
        guess = complement if u > 0.5 else 1 - complement
        near = (guess * (1 - mpmath.mpf("1e-5")), guess * (1 + mpmath.mpf("1e-5")))
        e = mpmath.findroot(lambda e: mp_refined_cdf(e, size) - tail, near, tol=1e-50,
                            solver="secant", verify=False)  # fmt: skip
        exact = 1 / e if u > 0.5 else 1 / (1 - e)
    assert float(abs(quantile / exact - 1)) < 1e-12


@pytest.mark.parametrize("u", [0.003, 0.4, 0.7, 0.96])
def test_ordered_refine_quantiles_invert_the_distribution_function(u):
    n, edge = 40, 1 / 40
    steps = timescale_quantile("OR", n, u)
    with mpmath.workdps(40):
        e = 1 / mpmath.mpf(float(steps))
        total = mpmath.mpf(1)
        for j in range(1, n):
            a = 1 - mpmath.mpf(j) / n
            r_bar = (e - a * a) / (2 * a * (1 - a))
            share = (r_bar - mpmath.mpf(edge)) / (1 - 2 * mpmath.mpf(edge))
            total += min(max(share, 0), 1)
        assert float(abs(total / n - (1 - mpmath.mpf(u)))) < 1e-13


def test_chrono_quantiles_are_exact_to_twelve_digits():
    u = np.array([0.0, 1e-12, 0.3, 1.0])
    bounded = timescale_quantile(gatecore.mechanism("C", t_max=10**6), 8, u)
    np.testing.assert_allclose(bounded, 2 + u * (10**6 - 2), rtol=1e-12)
    unbounded = timescale_quantile(gatecore.mechanism("C", t_max=None), 8, [0.61, 0.62, 1.0])
    np.testing.assert_allclose(unbounded, [2, 3, np.inf], rtol=1e-14)


def test_the_last_ordered_unit_has_an_infinite_timescale():
    assert timescale_quantile("O", 8, 1.0) == np.inf
    assert timescale_quantile("OM", 8, 1.0) == np.inf
    assert timescale_quantile("OR", 8, [0.8, 0.9])[1] == np.inf


def test_quantiles_reject_invalid_arguments():
    with pytest.raises(ValueError, match="u must lie"):
        timescale_quantile("U", 8, 1.5)
    with pytest.raises(ValueError, match="use sample_timescales"):
        timescale_quantile(gatecore.mechanism("CR", refine_bias="uniform"), 8, 0.5)
    with pytest.raises(ValueError, match="hidden_size"):
        timescale_quantile("U", 1, 0.5)


@pytest.mark.parametrize("n", [1, 63, 64, 200])
def test_samples_have_the_requested_length_and_repeat_with_the_seed(n):
    steps = sample_timescales("UR", 64, 0, n)
    assert steps.shape == (n,)
    np.testing.assert_array_equal(steps, sample_timescales("UR", 64, 0, n))


# ---- densities -------------------------------------------------------------------------------

DENSE = ["U", "O", "UR", "OR", "OM", "UM", gatecore.mechanism("CR", t_max=9),
         gatecore.mechanism("CM", t_max=9), OPPOSED,
         gatecore.mechanism("CR", t_max=9, refine_bias="opposed")]  # fmt: skip


@pytest.mark.parametrize("mechanism", DENSE, ids=str)
def test_the_density_integrates_to_the_quantiles(mechanism):
    u = np.array([0.1, 0.35, 0.5, 0.8, 0.97])
    g = 1 - 1 / timescale_quantile(mechanism, 10**5, u)
    mass = [integrate.quad(lambda x: initial_gate_density(mechanism, x), a, b, limit=200)[0]
            for a, b in itertools.pairwise(g)]  # fmt: skip
    np.testing.assert_allclose(mass, np.diff(u), atol=3e-5)


def test_the_independent_refine_density_is_accurate_at_both_ends():
    for e in (1e-300, 1e-20, 1e-3, 0.4):
        with mpmath.workdps(320):
            x = mpmath.mpf(e)
            exact = mpmath.log((1 + mpmath.sqrt(x)) * (1 + mpmath.sqrt(1 - x))
                               / mpmath.sqrt(x * (1 - x))) / 2  # fmt: skip
        for gate in (Gate(e, 1 - e), Gate(1 - e, e)):
            np.testing.assert_allclose(initial_gate_density("UR", gate), float(exact),
                                       rtol=1e-13)  # fmt: skip


@pytest.mark.parametrize(
    "mechanism", ["standard", "R", "M", gatecore.mechanism("C", t_max=None)], ids=str
)
def test_point_masses_have_no_density(mechanism):
    with pytest.raises(ValueError, match="point masses"):
        initial_gate_density(mechanism, 0.5)


def test_densities_reject_invalid_arguments():
    with pytest.raises(ValueError, match="give `size`"):
        initial_gate_density("C", 0.5)
    with pytest.raises(ValueError, match="must lie"):
        initial_gate_density("U", 1.5)
    with pytest.raises(ValueError, match="no closed form"):
        initial_gate_density(gatecore.mechanism("CR", refine_bias="uniform"), 0.5, size=9)


def test_uniform_gates_are_pareto_of_shape_one():
    steps = np.array([1.5, 4, 30.0])
    density = initial_gate_density("U", 1 - 1 / steps) / steps**2
    np.testing.assert_allclose(density, stats.pareto(b=1).pdf(steps), rtol=1e-12)


# ---- precision -------------------------------------------------------------------------------


def test_rounding_agrees_with_the_types(rng):
    x = rng.standard_normal(1000) * 10.0 ** rng.integers(-30, 30, 1000)
    np.testing.assert_array_equal(saturation.rounded(x, "float32"), x.astype(np.float32))
    np.testing.assert_array_equal(saturation.rounded(x, "float64"), x)
    torch = pytest.importorskip("torch")
    direct = torch.tensor(x).to(torch.bfloat16).to(torch.float64).numpy()
    twice = torch.tensor(x.astype(np.float32)).to(torch.bfloat16).to(torch.float64).numpy()
    rounded = np.where(direct == twice, saturation.rounded(x, "bfloat16"), direct)
    np.testing.assert_array_equal(rounded, direct)  # where torch rounds once


def test_rounding_rejects_other_types():
    for call in (lambda: saturation.rounded(1.0, "float16"),
                 lambda: saturation.largest_timescale("float16")):  # fmt: skip
        with pytest.raises(ValueError, match=r"dtype='float16'.* float64, float32, bfloat16"):
            call()


def test_the_pair_is_accurate_where_subtraction_is_not():
    loss = saturation.precision_loss([10.0, 1e5, 1e10])
    assert np.all(loss.pair < 1e-6)
    assert loss.subtracted[0] < 1e-5 < loss.subtracted[1] < loss.subtracted[2] == np.inf
    assert loss.printed[2] == np.inf
    with pytest.raises(ValueError, match="above 1"):
        saturation.precision_loss(1.0)
