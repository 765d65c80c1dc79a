"""JAX's functions of MinGRU: the parallel form is the sequential one, in strict JAX."""

import functools

import numpy as np
import pytest

pytest.importorskip("jax")

import jax

from gatecore import cells
from gatecore.backends import jax as backend
from gatecore.backends.numpy import functional as reference
from tests.jax.compilation import quickly_compiled
from tests.jax.test_sequence import INPUTS, B, D, T, example, pulled, same
from tests.support import GATINGS


@pytest.fixture(autouse=True)
def strict():
    """No implicit promotion of types or ranks."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


@pytest.mark.parametrize(
    ("name", "with_extras", "candidate"),
    [
        ("standard", False, "linear"),
        ("UR untied", True, "linear"),
        ("UM/3", True, "tanh"),
        ("O", True, "linear"),
    ],
)
def test_the_parallel_form_is_the_sequential_one(name, with_extras, candidate, rng):
    cell = cells.MinGRU(INPUTS, D, GATINGS[name], candidate=candidate)
    params = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    x, state = rng.standard_normal((T, B, INPUTS)), rng.standard_normal((B, D))
    extras = {"candidate": candidate}
    if with_extras:
        masks = (rng.random((T, B, D)) < 0.3).astype(float)
        extras |= {"resets": rng.random((T, B)) < 0.3, "zoneout": masks}
    *expected, pullback = reference.mingru(params, x, state, GATINGS[name], **extras)
    cotangents = (np.cos(expected[0]), np.sin(expected[1]))
    gradients = pullback(*cotangents)
    for options in ({}, {"impl": "reference"}, {"autodiff": True}):

        def parallel(params, x, state, options=options):
            return backend.mingru(params, x, state, GATINGS[name], **extras, **options)

        run = quickly_compiled(lambda *a, f=parallel: pulled(f, cotangents, *a))
        results, slopes = run(params, x, state)
        assert same(results, expected, 1e-12)
        assert same(slopes, gradients, 1e-12)


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 1, 3), (0, 2, 3), (3, 0, 3), (8, 2, 3)])
def test_the_parallel_form_of_any_length_and_batch(shape, rng):
    params, x = cells.MinGRU(3, D).init(rng), rng.standard_normal(shape)
    results = []
    for impl in ("parallel", "reference"):
        run = lambda p, x, impl=impl: backend.mingru(p, x, impl=impl)  # noqa: E731
        results.append(pulled(run, (np.ones((*shape[:2], D)), np.ones((shape[1], D))), params, x))
    assert same(*results, 1e-12)


def test_the_parallel_form_forgets_a_large_state():
    """The other implementations: tests/test_state_update.py."""
    params = {"weight_ih": np.zeros((2, 1)), "bias": np.array([np.log(1e-3), 0.3])}
    x, state = np.zeros((2, 1, 1)), np.full((1, 1), 12345.6)
    run = jax.jit(functools.partial(backend.mingru, mechanism="standard", impl="parallel"))
    exact, _ = run(params, x, state)
    output, _ = run(*jax.tree.map(np.float32, (params, x, state)))
    np.testing.assert_allclose(output, exact, rtol=1e-6)


def test_the_former_name_of_the_parallel_form_is_deprecated(rng):
    params, x = cells.MinGRU(3, D).init(rng), rng.standard_normal((4, 2, 3))
    with pytest.warns(DeprecationWarning, match="use mingru"):
        former = backend.minimal_parallel(params, x)
    assert same(former, backend.mingru(params, x, candidate="tanh"), 1e-15)


def test_the_parallel_form_refuses_recurrent_weights(rng):
    params, x, _ = example("minimal", GATINGS["UR"], rng)
    with pytest.raises(ValueError, match="unknown entry 'weight_hh'"):
        backend.mingru(params, x)
    with pytest.raises(ValueError, match="its gates depend on the state"):
        backend.minimal(params, x, impl="parallel")
    with pytest.raises(ValueError, match="computes in float32"):
        backend.mingru(cells.MinGRU(3, D).init(0), np.zeros((4, 2, 3)), impl="native")
