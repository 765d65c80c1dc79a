"""Trains through the host on one core, steps queued without waiting; ends with status 0.

JAX may copy a callback's arguments on a thread of its own: a callback that waited for one that this
core cannot give would never return. Started by test_native.py, which sets a limit of time.
"""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "GATECORE_JAX_CALL": "callback"}
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp

from gatecore.backends import jax as adapter

params = adapter.init(jax.random.key(0), 8, 64)
several = jax.random.normal(
    jax.random.key(1), (2, 300, 16, 8), jnp.float32
)  # their outputs are 1.2 MB each


def trained(impl, steps):
    """Parameters after some steps of descent on two sequences, mapped."""

    def loss(params, x):
        return jnp.square(adapter.lstm(params, x, impl=impl)[0]).mean()

    @jax.jit
    def step(params):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, several)
        return jax.tree.map(lambda p, g: p - 0.1 * g.sum(0), params, gradients)

    moved = params
    for _ in range(steps):
        moved = step(moved)
    return moved


assert adapter.native_call() == "callback"
mine, its = trained("native", 12), trained("reference", 12)
assert all(jnp.allclose(mine[name], its[name], atol=1e-5) for name in its)
