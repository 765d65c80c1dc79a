"""Sharded over eight devices of the host, the function gives what it gives on one.

Started by test_sharding.py, since the number of devices is fixed before JAX is imported.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gatecore.backends import jax as backend

TIME, BATCH, INPUTS, HIDDEN = 6, 8, 4, 16
LAYOUTS = {
    "data": {"weight_ih": (), "weight_hh": (), "bias": ()},
    "data and model": {
        "weight_ih": ("model", None),
        "weight_hh": ("model", None),
        "bias": ("model",),
    },
}


def value_and_gradient(params, x):
    """A loss of outputs and last state, its gradient, and the outputs."""

    def loss(params):
        output, (_, c) = backend.lstm(params, x)
        return jnp.sum(jnp.square(output)) + jnp.sum(c), output

    return jax.value_and_grad(loss, has_aux=True)(params)


def main():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    params = backend.init(jax.random.key(0), INPUTS, HIDDEN)
    x = jax.random.normal(jax.random.key(1), (TIME, BATCH, INPUTS))
    wanted = jax.jit(value_and_gradient)(params, x)
    for name, layout in LAYOUTS.items():
        placed = {
            k: jax.device_put(v, NamedSharding(mesh, PartitionSpec(*layout[k])))
            for k, v in params.items()
        }
        data = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data")))
        got = jax.jit(value_and_gradient)(placed, data)
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
        output = got[0][1]
        assert len(output.sharding.device_set) == 8, output.sharding
        assert output.addressable_shards[0].data.shape[1] == BATCH // 4, output.sharding
        print(name, "ok")


if __name__ == "__main__":
    main()
