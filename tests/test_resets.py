"""A reset clears any state, NaN and infinite ones too, and lets no cotangent through."""

import functools

import numpy as np
import pytest

from gatecore import backends
from gatecore.backends.native import library
from tests.support import CORES

T, B, X, H = 6, 3, 2, 4
RESET = 3  # the step before which sequence 0 is reset
NATIVE = pytest.mark.skipif(not library.available(), reason=str(library.unsupported()))
IMPLS = ["reference", pytest.param("native", marks=NATIVE)]
BAD = np.array([np.nan, np.inf, -np.inf, np.nan], np.float32)  # of the hidden units


def case(core, rng):
    params = {k: v.astype(np.float32) for k, v in CORES[core](X, H, "UR").init(rng).items()}
    x, d_output = (rng.standard_normal((T, B, n)).astype(np.float32) for n in (X, H))
    resets = np.zeros((T, B), bool)
    resets[0, 1] = resets[RESET, 0] = True
    return params, x, d_output, resets


def in_numpy(impl):
    def function(core, params, x, state, resets, d_output):
        layer = getattr(backends.load("numpy"), core)
        output, _, pullback = layer(params, x, state, resets=resets, impl=impl)
        _, d_x, d_state = pullback(d_output)
        return output, d_x, d_state

    return function


def in_torch(impl):
    def function(core, params, x, state, resets, d_output):
        torch = pytest.importorskip("torch", reason="torch is not installed")
        layer = getattr(backends.load("torch"), core)
        parts = state if isinstance(state, tuple) else (state,)
        leaves = [torch.tensor(a).requires_grad_() for a in (x, *parts)]
        state = tuple(leaves[1:]) if isinstance(state, tuple) else leaves[1]
        params = {k: torch.tensor(v) for k, v in params.items()}
        output, _ = layer(params, leaves[0], state, resets=torch.tensor(resets), impl=impl)
        d_x, *d_parts = torch.autograd.grad(output, leaves, torch.tensor(d_output))
        d_state = tuple(d.numpy() for d in d_parts)
        return output.detach().numpy(), d_x.numpy(), d_state[0] if len(d_state) == 1 else d_state

    return function


def in_jax(**options):
    def function(core, params, x, state, resets, d_output):
        jax = pytest.importorskip("jax", reason="JAX is not installed")
        layer = getattr(backends.load("jax"), core)
        output, pullback = jax.vjp(
            lambda x, state: layer(params, x, state, resets=resets, **options)[0], x, state
        )
        return output, *pullback(d_output)

    return function


PATHS = {
    "numpy": in_numpy("reference"),
    "numpy native": in_numpy("native"),
    **{f"torch {name}": in_torch(name) for name in ("reference", "plain", "native")},
    "jax scan": in_jax(impl="reference"),
    "jax autodiff": in_jax(autodiff=True),
    "jax native": in_jax(impl="native"),
}
paths = pytest.mark.parametrize(
    "path", [pytest.param(n, marks=NATIVE) if "native" in n else n for n in PATHS]
)


def state_of(core, rng, bad):
    """A random state whose sequence 1 is bad in every part."""
    parts = rng.standard_normal((2 if core == "lstm" else 1, B, H)).astype(np.float32)
    parts[:, 1] = bad
    return tuple(parts) if core == "lstm" else parts[0]


def parts_of(state):
    return [np.asarray(part) for part in (state if isinstance(state, tuple) else (state,))]


@pytest.mark.parametrize("core", CORES)
@paths
def test_a_bad_state_is_cleared(path, core, rng):
    params, x, d_output, resets = case(core, rng)
    seed = int(rng.integers(1 << 30))
    found = [
        PATHS[path](core, params, x, state_of(core, np.random.default_rng(seed), value), resets,
                    d_output)
        for value in (BAD, 0.0)
    ]  # fmt: skip
    for mine, its in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_array_equal(mine, its)
    for mine, its in zip(*(parts_of(results[2]) for results in found), strict=True):
        np.testing.assert_array_equal(mine, its)
        assert (mine[1] == 0).all()
        assert np.isfinite(mine).all()


@pytest.mark.parametrize("core", CORES)
@paths
def test_no_cotangent_passes_a_reset(path, core, rng):
    params, x, d_output, resets = case(core, rng)
    state, ended = state_of(core, rng, 0.0), d_output.copy()
    d_output[RESET:, 0] = BAD
    ended[RESET:, 0] = 0
    with np.errstate(invalid="ignore"):  # inf − inf, after the reset
        (_, d_x, d_state), (_, d_x0, d_state0) = (
            PATHS[path](core, params, x, state, resets, d) for d in (d_output, ended)
        )
    np.testing.assert_array_equal(np.asarray(d_x)[:RESET], np.asarray(d_x0)[:RESET])
    assert not np.isfinite(np.asarray(d_x)[RESET:, 0]).all()  # what came was bad indeed
    for mine, its in zip(parts_of(d_state), parts_of(d_state0), strict=True):
        np.testing.assert_array_equal(mine, its)
        assert np.isfinite(mine).all()


@pytest.mark.parametrize("core", CORES)
@paths
def test_a_sequence_recovers_from_a_bad_input(path, core, rng):
    params, x, d_output, resets = case(core, rng)
    state, fine = state_of(core, rng, 0.0), x.copy()
    x[RESET - 1, 0, 0] = np.nan
    (output, d_x, _), (output0, d_x0, _) = (
        PATHS[path](core, params, x, state, resets, d_output) for x in (x, fine)
    )
    assert np.isnan(np.asarray(output)[RESET - 1, 0]).all()
    np.testing.assert_array_equal(np.asarray(output)[RESET:], np.asarray(output0)[RESET:])
    np.testing.assert_array_equal(np.asarray(d_x)[RESET:], np.asarray(d_x0)[RESET:])


def test_the_parallel_scan_clears_too(rng):
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    layer = functools.partial(backends.load("jax").mingru, candidate="tanh")
    params, x, d_output, resets = case("minimal", rng)
    del params["weight_hh"]
    x[RESET - 1, 0] = np.nan, np.inf
    state = state_of("minimal", rng, BAD)
    output, pullback = jax.vjp(lambda x, h: layer(params, x, h, resets=resets)[0], x, state)
    d_x, d_state = map(np.asarray, pullback(d_output))
    alone, pullback = jax.vjp(lambda x: layer(params, x)[0], x[RESET:, :1])
    np.testing.assert_allclose(output[RESET:, :1], alone, rtol=1e-5, atol=1e-6)
    (its,) = pullback(d_output[RESET:, :1])
    np.testing.assert_allclose(d_x[RESET:, :1], its, rtol=1e-4, atol=1e-5)
    assert np.isfinite(np.asarray(output)[:, 1]).all()
    assert (d_state[1] == 0).all()
