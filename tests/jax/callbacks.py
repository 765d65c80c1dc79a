"""Trains through callbacks on one core, steps queued without waiting; ends with status 0.

JAX may copy a callback's arguments on a thread of its own: a callback that waited for one that this
core cannot give would never return. Started by test_native.py, which sets a limit of time.
"""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "GATECORE_JAX_CALL": "callback"}
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

import jax
import jax.numpy as jnp
import numpy as np

from gatecore import cells
from gatecore.backends import jax as backend

initial = jax.tree.map(np.float32, cells.LSTM(8, 64, "UR").init(0))
# two sequences, whose outputs are 1.2 MB each
sequences = jnp.asarray(np.random.default_rng(1).standard_normal((2, 300, 16, 8), np.float32))


def trained(impl, steps):
    """Parameters after some steps of descent on two sequences, mapped."""

    def loss(params, x):
        return jnp.square(backend.lstm(params, x, impl=impl)[0]).mean()

    @jax.jit
    def step(params):
        gradients = jax.vmap(jax.grad(loss), (None, 0))(params, sequences)
        return jax.tree.map(lambda p, g: p - 0.1 * g.sum(0), params, gradients)

    params = initial
    for _ in range(steps):
        params = step(params)
    return params


assert backend.native_call() == "callback"
native, reference = trained("native", 12), trained("reference", 12)
assert all(jnp.allclose(native[name], reference[name], atol=1e-5) for name in reference)
