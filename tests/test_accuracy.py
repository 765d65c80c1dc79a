"""Both sides of every gate are accurate: float64 to 1e-13, float32 to a few stated ulp."""

import functools

import mpmath
import numpy as np
import pytest

from gatecore import Gate, cumax, logit, master, refine, sigmoid
from gatecore.cells import update
from tests.conftest import Backend
from tests.support import ULP, both_sides, column, floats, load, relative_error

REFINE = load("refine")["cases"]
CUMAX = load("cumax")["cases"]
SAMPLES = 3000


# --- float64: the high-precision vectors, logits to ±40 -----------------------------------------


@pytest.mark.parametrize(
    ("logits", "value", "complement"),
    [
        ("x", "f", "one_minus_f"),
        ("y", "r", "one_minus_r"),
    ],
)
def test_sigmoid_and_its_complement_agree_with_the_vectors(arrays, logits, value, complement):
    got = both_sides(arrays, sigmoid(arrays.array(column(REFINE, logits))))
    assert relative_error(got[0], column(REFINE, value)) < 1e-13
    assert relative_error(got[1], column(REFINE, complement)) < 1e-13


def test_refine_and_its_complement_agree_with_the_vectors(arrays):
    forget = sigmoid(arrays.array(column(REFINE, "x")))
    got = both_sides(arrays, refine(forget, sigmoid(arrays.array(column(REFINE, "y")))))
    assert relative_error(got[0], column(REFINE, "g")) < 1e-13
    assert relative_error(got[1], column(REFINE, "one_minus_g")) < 1e-13


def test_logit_of_a_refined_gate_agrees_with_the_vectors(arrays):
    forget = sigmoid(arrays.array(column(REFINE, "x")))
    got = arrays.numpy(logit(refine(forget, sigmoid(arrays.array(column(REFINE, "y"))))))
    assert np.max(np.abs(got - column(REFINE, "logit_g"))) < 1e-13


@pytest.mark.parametrize("case", CUMAX, ids=lambda case: case["name"])
def test_cumax_and_its_complement_agree_with_the_vectors(arrays, case):
    got = both_sides(arrays, cumax(arrays.array(case["logits"]), downsize=case["C"]))
    assert relative_error(got[0], floats(case["f"])) < 1e-13
    assert relative_error(got[1], floats(case["one_minus_f"])) < 1e-13


# --- float32: the stated errors over logits ±40, against the printed formulas in 60 digits -------


def rounded(*results):
    return tuple(np.array([float(r) for r in result]) for result in results)


def samples(count, seed):
    """Float32 logits in ±40: half spread evenly, half concentrated where gates are moderate."""
    draws = np.random.default_rng(seed)
    wide = draws.uniform(-40, 40, (count, SAMPLES // 2))
    narrow = np.clip(draws.normal(0, 4, (count, SAMPLES - SAMPLES // 2)), -40, 40)
    return np.concatenate([wide, narrow], axis=1).astype(np.float32)


def exact_sigmoids(rows):
    return [[1 / (1 + mpmath.exp(-mpmath.mpf(float(z)))) for z in row] for row in rows]


@functools.cache
def exact_refine():
    logits = samples(2, seed=12)
    with mpmath.workdps(60):
        f, r = exact_sigmoids(logits)
        g = [b * (1 - (1 - a) ** 2) + (1 - b) * a**2 for a, b in zip(f, r, strict=True)]  # (12)
        return logits, *rounded(f, [1 - a for a in f], g, [1 - a for a in g])


@functools.cache
def exact_master():
    logits = samples(4, seed=21)
    with mpmath.workdps(60):
        four = list(zip(*exact_sigmoids(logits), strict=True))
        omega = [big_f * big_i for big_f, big_i, _, _ in four]  # (21)
        pairs = list(zip(four, omega, strict=True))
        forget = [f * w + (big_f - w) for (big_f, _, f, _), w in pairs]  # (22)
        input_ = [i * w + (big_i - w) for (_, big_i, _, i), w in pairs]  # (23)
        return logits, *rounded(forget, [1 - a for a in forget], input_, [1 - a for a in input_])


@functools.cache
def exact_cumax(width, spread):
    logits = np.random.default_rng(width).uniform(-spread, spread, (4, width)).astype(np.float32)
    with mpmath.workdps(60):
        values = []
        for row in logits:
            weights = [mpmath.exp(mpmath.mpf(float(z))) for z in row]
            total = mpmath.fsum(weights)
            running = mpmath.mpf(0)
            for weight in weights:
                running += weight
                values.append((running / total, (total - running) / total))
        for row in range(len(logits)):  # exact ends
            values[(row + 1) * width - 1] = (1, 0)
        value, complement = rounded(*zip(*values, strict=True))
        return logits, value.reshape(logits.shape), complement.reshape(logits.shape)


def test_sigmoid_errs_by_a_few_ulp_in_float32(arrays):
    logits, f, f_complement, *_ = exact_refine()
    got = both_sides(arrays, sigmoid(arrays.array(logits[0], "float32")))
    assert got[0].dtype == got[1].dtype == np.float32
    assert relative_error(got[0], f) <= 4 * ULP
    assert relative_error(got[1], f_complement) <= 4 * ULP


def test_refine_errs_by_at_most_5_4_ulp_in_float32_from_logits(arrays):
    logits, _, _, g, g_complement = exact_refine()
    f, r = (sigmoid(arrays.array(row, "float32")) for row in logits)
    got = both_sides(arrays, refine(f, r))
    assert relative_error(got[0], g) <= 5.4 * ULP
    assert relative_error(got[1], g_complement) <= 5.4 * ULP


def master_errors(arrays, gates, exact):
    """Errors in ulp of the four sides of `master`, in the order of `exact`."""
    forget, input_ = master(*gates)
    got = (*both_sides(arrays, forget), *both_sides(arrays, input_))
    return [relative_error(side, e) / ULP for side, e in zip(got, exact, strict=True)]


def test_master_errs_by_at_most_5_2_and_4_3_ulp_in_float32_from_rounded_gates(arrays):
    logits, *exact = exact_master()
    with mpmath.workdps(60):
        exact_gates = [rounded(f, [1 - a for a in f]) for f in exact_sigmoids(logits)]
    gates = [Gate(*(arrays.array(side, "float32") for side in gate)) for gate in exact_gates]
    assert np.all(master_errors(arrays, gates, exact) <= np.array([5.2, 4.3, 5.2, 4.3]))


@pytest.mark.parametrize("library", [Backend.NUMPY, Backend.STRICT], ids=str)
def test_master_errs_by_at_most_5_2_and_4_3_ulp_in_float32_from_logits(library):
    """Only where gatecore computes the sigmoid: torch's and JAX's alone err by 2.5 ulp."""
    logits, *exact = exact_master()
    gates = [sigmoid(library.array(row, "float32")) for row in logits]
    assert np.all(master_errors(library, gates, exact) <= np.array([5.2, 4.3, 5.2, 4.3]))


@pytest.mark.parametrize(("width", "spread"), [(8, 40), (64, 40), (64, 4), (512, 4)])
def test_cumax_errs_by_at_most_37_ulp_in_float32(arrays, width, spread):
    logits, value, complement = exact_cumax(width, spread)
    got = both_sides(arrays, cumax(arrays.array(logits, "float32")))
    assert relative_error(got[0], value) <= 37 * ULP
    assert relative_error(got[1], complement) <= 37 * ULP


def test_logit_errs_by_at_most_2_4_ulp_in_float32(arrays):
    draws = np.random.default_rng(24)
    near_one = 1 - draws.integers(1, 1 << 20, 500) * 2.0**-24
    u = np.concatenate([draws.uniform(0, 1, 1500), 10 ** draws.uniform(-30, 0, 500), near_one])
    u = u.astype(np.float32)
    u = u[(u > 0) & (u < 1)]
    with mpmath.workdps(60):
        points = [mpmath.mpf(float(p)) for p in u]
        (exact,) = rounded([mpmath.log(p / (1 - p)) for p in points])
    assert relative_error(arrays.numpy(logit(arrays.array(u, "float32"))), exact) <= 2.4 * ULP


# --- a state over many steps ---------------------------------------------------------------------


def test_small_written_values_are_not_lost_beside_the_state(arrays):
    """Terms below the state's last bit, 2,000 times: added one by one, all would be lost."""
    rng = np.random.default_rng(0)
    exact = state = rng.uniform(1, 2, 500).astype(np.float32)
    for _ in range(2000):
        decay = rng.uniform(2e-5, 6e-5, 500).astype(np.float32)
        write = rng.uniform(1e-8, 3e-8, 500).astype(np.float32)
        exact = exact - decay.astype(float) * exact + write
        forget = Gate(*(arrays.array(side, "float32") for side in (1 - decay, decay)))
        put = Gate(*(arrays.array(side, "float32") for side in (write, 1 - write)))
        one = arrays.array(np.ones(500), "float32")
        state = arrays.numpy(update(arrays.array(state, "float32"), one, forget, put))
    assert np.abs(np.mean(state - exact)) < 1e-6  # 4e-5 if they were lost
