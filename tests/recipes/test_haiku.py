"""The Haiku core of docs/jax.md."""

import numpy as np
import pytest

pytest.importorskip("haiku", reason="haiku is not installed: use `make recipes`")

import haiku as hk
import jax
import jax.numpy as jnp

from gatecore.backends.jax import gru


def test_the_core_unrolled_is_the_function_of_the_sequence(recipe):
    core = recipe("Haiku", "jax.md").GatedGRU

    def network(x):
        cell = core(8, "OM")
        return hk.dynamic_unroll(cell, x, cell.initial_state(x.shape[1]))

    transformed = hk.without_apply_rng(hk.transform(network))
    x = jax.random.normal(jax.random.key(0), (5, 2, 3), jnp.float32)
    params = transformed.init(jax.random.key(1), x)
    other = transformed.init(jax.random.key(2), x)
    assert not np.array_equal(params["gated_gru"]["weight_hh"], other["gated_gru"]["weight_hh"])

    def loss(outputs):
        return jnp.sum(jnp.square(outputs[0])) + jnp.sum(outputs[1])

    results = jax.jit(jax.value_and_grad(lambda p: loss(transformed.apply(p, x))))(params)
    exact = jax.value_and_grad(lambda p: loss(gru(p["gated_gru"], x, mechanism="OM")))(params)
    for value, expected in zip(*map(jax.tree.leaves, (results, exact)), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
