"""Initial biases: their distributions, inverse CDFs, generators and errors."""

import functools

import mpmath
import numpy as np
import pytest
from scipy import stats

from gatecore import init, sigmoid, timescale
from tests.support import relative_error

Z = mpmath.mpf("3.38773553195200231636953717942")
MANY = 20_000
UNIT = np.array([0, 1e-300, 1e-12, 0.1, 0.25, 0.4999, 0.5, 0.5001, 0.6, 0.75, 0.9, 1 - 1e-12, 1])


def exactly(function, points):
    with mpmath.workdps(50):
        return np.array([float(function(mpmath.mpf(float(u)))) for u in points])


def kolmogorov(draws, cdf):
    """The p-value that `draws` follow `cdf`."""
    return stats.kstest(draws, cdf).pvalue


# --- uniform gate initialization: equation (9), Listing 2, Proposition 1 ------------------------


@pytest.mark.parametrize("width", [2, 3, 8, 256, 10**6])
def test_uniform_quantile_is_the_inverse_sigmoid_of_a_uniform_number(width):
    def exact(u):
        gate = mpmath.mpf(1) / width + u * (1 - mpmath.mpf(2) / width)
        return mpmath.log(gate / (1 - gate))

    got = init.uniform_quantile(UNIT, width)
    assert np.max(np.abs(got - exactly(exact, UNIT))) <= 4e-16 * max(1, np.log(width))


def test_uniform_biases_make_gates_uniform_between_one_over_d_and_its_complement():
    gates = sigmoid(init.uniform(MANY, 0, width=64)).value
    assert gates.min() >= 1 / 64 - 1e-15
    assert gates.max() <= 1 - 1 / 64 + 1e-15
    assert kolmogorov(gates, stats.uniform(1 / 64, 1 - 2 / 64).cdf) > 0.01


def test_uniform_biases_give_timescales_the_truncated_pareto_distribution_of_proposition_1():
    d = 128
    scales = timescale(sigmoid(init.uniform(MANY, 1, width=d)))
    assert kolmogorov(scales, lambda x: (1 - 1 / d - 1 / x) * d / (d - 2)) > 0.01
    mean = d * np.log(d - 1) / (d - 2)
    spread = np.sqrt(d**2 / (d - 1) - mean**2)
    assert abs(scales.mean() - mean) < 4 * spread / np.sqrt(MANY)
    assert abs(np.median(scales) - 2) < 0.05


def test_uniform_biases_are_symmetric():
    u = np.linspace(0, 1, 33)  # dyadic: 1 - u is exact
    assert np.array_equal(init.uniform_quantile(u, 50), -init.uniform_quantile(1 - u, 50))


def test_the_width_is_the_size_unless_given():
    assert np.array_equal(init.uniform(16, 3), init.uniform(16, 3, width=16))
    assert not np.array_equal(init.uniform(16, 3), init.uniform(16, 3, width=64))
    assert np.abs(init.uniform(16, 3)).max() <= np.log(15) + 1e-12


def test_width_two_leaves_a_single_value():
    assert np.array_equal(init.uniform(2, 0), np.zeros(2))


def test_one_bias_can_be_drawn_for_a_wider_layer():
    assert init.uniform(1, 0, width=8).shape == (1,)


# --- chrono: equations (17), and the law without T_max ------------------------------------------


@pytest.mark.parametrize("t_max", [2.001, 8, 784, 1e9])
def test_chrono_quantile_is_the_logarithm_of_a_uniform_number(t_max):
    exact = exactly(lambda u: mpmath.log1p(u * (mpmath.mpf(t_max) - 2)), UNIT)
    assert relative_error(init.chrono_quantile(UNIT, t_max), exact) < 1e-14


def test_chrono_biases_make_timescales_uniform_between_two_and_t_max():
    scales = timescale(sigmoid(init.chrono(MANY, 100, 5)))
    assert kolmogorov(scales, stats.uniform(2, 98).cdf) > 0.01


@pytest.mark.parametrize(("t_max", "mean"), [(8, 1.27), (11, 1.56)])
def test_chrono_biases_have_the_mean_that_the_design_states(t_max, mean):
    assert abs(init.chrono(MANY, t_max, 6).mean() - mean) < 0.02


@functools.cache
def unbounded_cdf(steps):
    """P(T ≤ k) for k = 0..steps, with P(T = k) = 1/(Z k ln²(k + 1))."""
    with mpmath.workdps(40):
        total, table = mpmath.mpf(0), [mpmath.mpf(0)]
        for k in range(1, steps + 1):
            total += 1 / (Z * k * mpmath.log(k + 1) ** 2)
            table.append(total)
        return np.array([float(p) for p in table])


def test_the_normaliser_of_the_unbounded_distribution_is_right():
    """Its terms up to 2000, and the rest by Euler-Maclaurin."""

    def term(x):
        return 1 / (x * mpmath.log(x + 1) ** 2)

    head = mpmath.fsum(term(mpmath.mpf(k)) for k in range(1, 2000))
    tail = mpmath.quad(
        lambda t: mpmath.exp(t) / (mpmath.expm1(t) * t**2), [mpmath.log(2001), 20, 60, mpmath.inf]
    )
    correction = term(mpmath.mpf(2000)) / 2 - mpmath.diff(term, 2000) / 12
    assert abs(head + tail + correction - Z) < 1e-13


def test_unbounded_quantile_is_the_logarithm_of_the_smallest_step_that_reaches_u():
    cdf = unbounded_cdf(400)
    middles = (cdf[:-1] + cdf[1:]) / 2
    assert np.allclose(
        init.chrono_unbounded_quantile(middles), np.log(np.arange(1, 401)), rtol=1e-15, atol=0
    )
    below, above = cdf[1:] * (1 - 1e-13), cdf[1:] * (1 + 1e-13)
    steps = np.arange(1, 401)
    assert np.allclose(init.chrono_unbounded_quantile(below), np.log(steps), rtol=1e-15, atol=0)
    assert np.allclose(init.chrono_unbounded_quantile(above), np.log(steps + 1), rtol=1e-15, atol=0)


def test_the_first_probability_of_the_unbounded_distribution():
    assert unbounded_cdf(1)[1] == pytest.approx(0.614384, abs=1e-6)
    assert init.chrono_unbounded_quantile([0.0, 0.6143, 0.6144]).tolist() == [0, 0, np.log(2)]


@pytest.mark.parametrize("level", [9.8, 10.5, 15.0, 25.0, 34.0, 40.0, 100.0, 1e4, 1e12])
def test_far_out_the_unbounded_bias_is_one_over_z_and_the_tail_probability(level):
    """P(T > k) is ∫_{k+½} to many digits: u of the tail gives back log T within one grid step."""
    with mpmath.workdps(60):
        start = mpmath.mpf(level)
        correction = (
            mpmath.quad(lambda t: 1 / (mpmath.expm1(t) * t**2), [start, start + 5, start + 40])
            if level < 100
            else 0
        )
        u = float(1 - (1 / start + correction) / Z)
        tail = 1 - mpmath.mpf(u)  # what is left of it in a double
        back = 1 / (tail * Z - correction)
    grid = 2 * np.exp(-level)  # two steps of T, seen in log T
    got = init.chrono_unbounded_quantile(u)
    assert abs(got - float(back)) <= grid + 1e-12 * level


def test_unbounded_quantile_rises_and_is_infinite_only_at_one():
    u = np.concatenate([np.linspace(0, 0.97, 500), 1 - np.logspace(-1.7, -16, 3000)])
    biases = init.chrono_unbounded_quantile(u)
    assert np.all(np.diff(biases) >= 0)
    assert np.all(np.isfinite(biases))
    assert init.chrono_unbounded_quantile(1.0) == np.inf


def test_unbounded_biases_follow_the_distribution():
    draws = init.chrono_unbounded(MANY, 7)
    steps = np.rint(np.exp(np.minimum(draws, 5)))
    expected = np.diff(unbounded_cdf(8))
    for k, p in enumerate(expected, start=1):
        assert abs(np.mean(steps == k) - p) < 4 * np.sqrt(p / MANY)
    for level in (20.0, 60.0):
        p = 1 / (float(Z) * level)
        assert abs(np.mean(draws > level) - p) < 4 * np.sqrt(p / MANY)
    assert np.all(np.isfinite(draws))


# --- what they share ----------------------------------------------------------------------------

DRAWS = [
    pytest.param(lambda size, rng: init.uniform(size, rng), id="uniform"),
    pytest.param(lambda size, rng: init.chrono(size, 50, rng), id="chrono"),
    pytest.param(lambda size, rng: init.chrono_unbounded(size, rng), id="chrono_unbounded"),
]


@pytest.mark.parametrize("draw", DRAWS)
def test_draws_are_float64_vectors_that_a_seed_determines(draw):
    biases = draw(12, 4)
    assert biases.shape == (12,)
    assert biases.dtype == np.float64
    assert np.array_equal(biases, draw(12, 4))
    assert np.array_equal(biases, draw(12, np.random.default_rng(4)))
    assert np.array_equal(biases, draw(12, np.int64(4)))
    assert not np.array_equal(biases, draw(12, 5))


@pytest.mark.parametrize("draw", DRAWS)
def test_a_generator_advances(draw):
    rng = np.random.default_rng(4)
    assert not np.array_equal(draw(12, rng), draw(12, rng))


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("rng", [None, 0.5, "0", True, np.random.RandomState(0)])
def test_other_generators_raise(draw, rng):
    with pytest.raises(TypeError, match="rng"):
        draw(4, rng)


@pytest.mark.parametrize("draw", DRAWS)
def test_a_negative_seed_raises(draw):
    with pytest.raises((TypeError, ValueError), match="rng"):
        draw(4, -1)


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize(("size", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError)])
def test_sizes_are_positive_integers(draw, size, error):
    with pytest.raises(error, match="size"):
        draw(size, 0)


def test_constant_repeats_a_value():
    biases = init.constant(3, 1.5)
    assert biases.tolist() == [1.5, 1.5, 1.5]
    assert biases.dtype == np.float64


@pytest.mark.parametrize(
    ("bad", "error", "complaint"),
    [
        (lambda: init.uniform(1, 0), ValueError, "width of at least 2"),
        (lambda: init.uniform(4, 0, width=1), ValueError, "width of at least 2"),
        (lambda: init.uniform_quantile(0.5, 1), ValueError, "width of at least 2"),
        (lambda: init.uniform_quantile(0.5, 2.5), TypeError, "width must be an integer"),
        (lambda: init.uniform_quantile(1.5, 4), ValueError, "u must lie in"),
        (lambda: init.uniform_quantile(np.nan, 4), ValueError, "u must lie in"),
        (lambda: init.chrono(4, 2, 0), ValueError, "t_max must be above 2"),
        (lambda: init.chrono(4, -5, 0), ValueError, "t_max must be above 2"),
        (lambda: init.chrono(4, np.nan, 0), ValueError, "t_max must be finite"),
        (lambda: init.chrono(4, np.inf, 0), ValueError, "t_max must be finite"),
        (lambda: init.chrono(4, "long", 0), TypeError, "t_max must be a number"),
        (lambda: init.chrono_quantile(-0.1, 8), ValueError, "u must lie in"),
        (lambda: init.chrono_unbounded_quantile(2), ValueError, "u must lie in"),
        (lambda: init.constant(3, np.nan), ValueError, "value must be finite"),
        (lambda: init.constant(3, "1"), TypeError, "value must be a number"),
    ],
)
def test_errors_name_the_argument(bad, error, complaint):
    with pytest.raises(error, match=complaint):
        bad()
