"""The native library behind JAX's functions: equal to the scan, under every transformation."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="JAX is not installed")

import jax.numpy as jnp  # noqa: E402

from gatecore.backends import jax as adapter  # noqa: E402
from gatecore.backends.jax import native  # noqa: E402
from tests.support import CORES, GATINGS  # noqa: E402

pytestmark = pytest.mark.skipif(
    native.obstacle(jnp.float32) is not None, reason=str(native.obstacle(jnp.float32))
)
T, B, X, H = 5, 3, 2, 18


def problem(core, gating, rng):
    cell = CORES[core](X, H, gating)
    drawn = {k: v + 0.3 * rng.standard_normal(v.shape) for k, v in cell.init(rng).items()}
    params = {name: jnp.asarray(value, jnp.float32) for name, value in drawn.items()}
    state = tuple(jnp.asarray(part, jnp.float32) for part in rng.standard_normal((2, B, H)))
    x = jnp.asarray(rng.standard_normal((T, B, X)), jnp.float32)
    return params, x, state if core == "lstm" else state[0]


def loss_of(core, mechanism, impl, **keywords):
    def loss(params, x, state):
        result = getattr(adapter, core)(params, x, state, mechanism, impl=impl, **keywords)
        leaves = enumerate(jax.tree.leaves(result), start=1)
        return sum((jnp.sin(leaf) * jnp.float32(k)).sum() for k, leaf in leaves)

    return loss


def close(found, expected, tolerance=3e-5):
    for mine, its in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        scale = max(float(jnp.abs(its).max()), 1e-3)
        assert float(jnp.abs(mine - its).max()) < tolerance * scale


def both(function):
    return [function(impl) for impl in ("native", "reference")]


@pytest.mark.parametrize("gating", GATINGS)
@pytest.mark.parametrize("core", CORES)
def test_outputs_and_gradients_are_the_scans(core, gating, rng):
    given = problem(core, GATINGS[gating], rng)
    draws = jnp.asarray(rng.random((T, B, H)) < 0.3, jnp.float32)
    keywords = {"resets": jnp.asarray(rng.random((T, B)) < 0.2), "zoneout": draws}
    if core == "lstm":
        keywords |= {"zoneout": (0.1, draws), "return_cells": True}

    def gradients(impl):
        loss = loss_of(core, GATINGS[gating], impl, **keywords)
        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(*given)

    close(*both(gradients))


def test_second_derivatives_are_the_scans(rng):
    params, x, state = problem("lstm", GATINGS["UR"], rng)

    def second(impl):
        loss = loss_of("lstm", "UR", impl)
        norm = lambda params, x: sum(  # noqa: E731
            (g**2).sum() for g in jax.tree.leaves(jax.grad(loss, (0, 1))(params, x, state))
        )
        return jax.grad(norm, (0, 1))(params, x)

    close(*both(second), tolerance=1e-3)


def test_mapped_over_data_and_over_parameters(rng):
    params, x, state = problem("gru", GATINGS["UR"], rng)
    several = jnp.stack([x, 2 * x, -x])
    models = jax.tree.map(lambda p: jnp.stack([p, p / 2, -p]), params)

    def mapped(impl):
        gradient = jax.grad(loss_of("gru", "UR", impl))
        data = jax.jit(jax.vmap(gradient, (None, 0, None)))(params, several, state)
        return data, jax.vmap(gradient, (0, None, None))(models, x, state)

    close(*both(mapped))


def test_within_a_scan_with_donated_buffers_and_strict_promotion(rng):
    params, x, state = problem("minimal", GATINGS["M"], rng)

    def chunks(impl):
        def one(state, x):
            output, state = adapter.minimal(params, x, state, "M", impl=impl)
            return state, output

        with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
            run = jax.jit(lambda s, xs: jax.lax.scan(one, s, xs), donate_argnums=0)
            return run(state + jnp.float32(0), jnp.stack([x, x]))

    close(*both(chunks))


def test_what_runs_can_be_asked_and_what_cannot_be_had_is_refused():
    assert adapter.implementation(jnp.float32, impl="native") == "native"
    assert adapter.implementation(jnp.float32, impl="reference") == "reference"
    assert adapter.implementation(jnp.float64) == "reference"
    assert adapter.implementation(jnp.float32, autodiff=True) == "reference"
    with pytest.raises(ValueError, match="computes in float32, not bfloat16"):
        adapter.implementation(jnp.bfloat16, impl="native")
    with pytest.raises(ValueError, match=r"autodiff=True asks for the scan"):
        adapter.implementation(jnp.float32, autodiff=True, impl="native")


def test_a_batch_of_one_step_and_one_sequence(rng):
    params = CORES["lstm"](1, 3, "UR").init(0)
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    x = jnp.asarray(np.ones((1, 1, 1)), jnp.float32)
    close(*both(lambda impl: adapter.lstm(params, x, impl=impl)))
