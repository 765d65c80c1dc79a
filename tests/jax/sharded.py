"""Sharded over eight devices of this machine, the function equals the NumPy backend's.

Started by test_sharding.py, since the number of devices is fixed before JAX is imported.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gatecore import cells
from gatecore.backends import jax as backend
from gatecore.backends import numpy as reference

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


def check(title, expected, d_params, results):
    """Compare loss, gradient and outputs with those of the NumPy backend."""
    (loss, output), gradient = results
    np.testing.assert_allclose(loss, expected[0], rtol=1e-5)
    np.testing.assert_allclose(output, expected[1], rtol=1e-5, atol=1e-5)
    for name, exact in d_params.items():
        np.testing.assert_allclose(gradient[name], exact, rtol=1e-5, atol=1e-5)
    print(title, "ok")
    return output


def mapped(params, x):
    """The same under `shard_map` with its default checks: the loss is summed over the shards."""

    def total(params, x):
        output, (_, c) = backend.lstm(params, x)
        return jax.lax.psum(jnp.sum(jnp.square(output)) + jnp.sum(c), "data"), output

    spec, batch = PartitionSpec(), PartitionSpec(None, "data")
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    loss = jax.shard_map(total, mesh=mesh, in_specs=(spec, batch), out_specs=(spec, batch))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, x)


def explicit(params, x):
    """The same on a mesh with explicit axes."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        placed = {
            k: jax.device_put(v, NamedSharding(mesh, PartitionSpec("model")))
            for k, v in params.items()
        }
        data = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data")))
        results = jax.jit(value_and_gradient)(placed, data)
        assert jax.typeof(results[0][1]).sharding.spec[1] == "data", results[0][1].sharding
        return jax.tree.map(np.asarray, results)


def main():
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    params = cells.LSTM(INPUTS, HIDDEN, "UR").init(0)
    params = {name: value.astype(np.float32) for name, value in params.items()}
    x = np.random.default_rng(1).standard_normal((TIME, BATCH, INPUTS), np.float32)
    expected, (_, c), pullback = reference.lstm(params, x)
    d_params, _, _ = pullback(2 * expected, (np.zeros_like(c), np.ones_like(c)))
    loss = np.square(expected).sum() + c.sum(), expected
    for title, layout in LAYOUTS.items():
        placed = {
            k: jax.device_put(v, NamedSharding(mesh, PartitionSpec(*layout[k])))
            for k, v in params.items()
        }
        data = jax.device_put(x, NamedSharding(mesh, PartitionSpec(None, "data")))
        output = check(title, loss, d_params, jax.jit(value_and_gradient)(placed, data))
        assert len(output.sharding.device_set) == 8, output.sharding
        assert output.addressable_shards[0].data.shape[1] == BATCH // 4, output.sharding
    check("shard_map", loss, d_params, mapped(params, x))
    check("explicit axes", loss, d_params, explicit(params, x))


if __name__ == "__main__":
    main()
