"""The flax cells sharded over four devices of this machine compute what they do on one.

flax makes the initial carry of a shape alone: here it is placed as the sequences are, and passed.
Started by test_sharding.py, since the number of devices is fixed before JAX is imported.
"""

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gatecore.backends import jax as backend
from gatecore.backends.jax import linen as gated

X = jnp.asarray(np.random.default_rng(0).standard_normal((8, 5, 3)), jnp.float32)
WHOLE, BATCH = PartitionSpec(), PartitionSpec("data")


def with_nnx():
    """A function of parameters, sequences (batch, time, features) and a carry; the parameters."""
    cell = backend.GRUCell(3, 8, mechanism="UR", rngs=nnx.Rngs(0))
    graph, params, rest = nnx.split(nnx.RNN(cell), nnx.Param, ...)

    def apply(params, x, carry):
        return nnx.merge(graph, params, rest)(x, initial_carry=carry)

    return apply, params


def with_linen():
    """The same of linen's module."""
    rnn = linen.RNN(gated.GRUCell(8, "UR"))
    params = rnn.init(jax.random.key(0), X)
    return lambda params, x, carry: rnn.apply(params, x, initial_carry=carry), params


def mapped(apply, params):
    """Under `shard_map` with its default checks."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))

    def total(params, x):
        carry = jax.lax.pcast(jnp.zeros((len(x), 8), jnp.float32), "data", to="varying")
        output = apply(params, x, carry)
        return jax.lax.psum(jnp.sum(jnp.square(output)), "data"), output

    loss = jax.shard_map(total, mesh=mesh, in_specs=(WHOLE, BATCH), out_specs=(WHOLE, BATCH))
    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params, X)


def explicit(apply, params):
    """On a mesh with explicit axes."""
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))

    def loss(params, x):
        carry = jax.sharding.reshard(jnp.zeros((len(x), 8), jnp.float32), BATCH)
        output = apply(params, x, carry)
        return jnp.sum(jnp.square(output)), output

    with jax.set_mesh(mesh):
        params = jax.device_put(params, NamedSharding(mesh, WHOLE))
        x = jax.device_put(X, NamedSharding(mesh, BATCH))
        results = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, x)
        assert jax.typeof(results[0][1]).sharding.spec[0] == "data", results[0][1].sharding
        return jax.tree.map(np.asarray, results)


def main():
    for library in (with_nnx, with_linen):
        apply, params = library()

        def loss(params, apply=apply):
            output = apply(params, X, jnp.zeros((len(X), 8), jnp.float32))
            return jnp.sum(jnp.square(output)), output

        expected = jax.tree.leaves(jax.jit(jax.value_and_grad(loss, has_aux=True))(params))
        for placement in (mapped, explicit):
            results = jax.tree.leaves(placement(apply, params))
            for value, exact in zip(results, expected, strict=True):
                np.testing.assert_allclose(value, exact, rtol=1e-5, atol=1e-5)
            print(library.__name__, placement.__name__, "ok")


if __name__ == "__main__":
    main()
