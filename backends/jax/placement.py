"""The devices of a layer's arrays: axes of ``shard_map``, and meshes with explicit axes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from gatecore.backends.jax.arguments import Arguments, States

Array = jax.Array
Layer = Callable[[Arguments], tuple[States, States]]


def placed(layer: Layer, arguments: Arguments) -> tuple[States, States]:
    """The outputs and the final state of ``layer``, for arrays on any mesh.

    Under ``shard_map`` all arguments are made to vary over the axes of any, as the states will.
    On a mesh with explicit axes these are automatic inside, and the results are sharded over the
    batch as x is.
    """
    arrays = jax.tree.leaves(arguments)
    axes = frozenset().union(*(jax.typeof(a).manual_axis_type.varying for a in arrays))
    if axes:
        return layer(jax.tree.map(lambda a: vary(a, axes), arguments))
    meshes = [jax.typeof(a).sharding.mesh for a in arrays]
    mesh = next((m for m in meshes if AxisType.Explicit in m.axis_types), None)
    if mesh is None:
        return layer(arguments)
    spec = jax.typeof(arguments.x).sharding.spec
    batch = spec[1] if len(spec) > 1 else None
    shardings = (NamedSharding(mesh, PartitionSpec(None, batch)),
                 NamedSharding(mesh, PartitionSpec(batch)))  # fmt: skip
    return jax.sharding.auto_axes(layer, out_sharding=shardings)(arguments)


def zeros(kind: Any) -> Array:
    """Zeros of the shape and dtype of ``kind``, an array's type, which vary over its axes."""
    return vary(jnp.zeros(kind.shape, kind.dtype), kind.manual_axis_type.varying)


def vary(array: Array, axes: frozenset[Any]) -> Array:
    """The array as one that varies over these manual axes."""
    missing = tuple(axes - jax.typeof(array).manual_axis_type.varying)
    return lax.pcast(array, missing, to="varying") if missing else array
