"""Masked steps of a sequence: skipped by moving the others to the front."""

from typing import Any

from keras import ops

Array = Any


def compact(x: Array, mask: Array) -> Array:
    """``x`` (time, batch, input) with each sequence's unmasked steps first, then zeros.

    ``mask`` (time, batch) is true where a step counts. So no masked entry reaches a product.
    """
    steps = ops.arange(x.shape[0])[:, None]
    order = ops.argsort(ops.where(mask, steps, steps + x.shape[0]), axis=0)
    counts = steps < ops.sum(ops.cast(mask, "int32"), axis=0)
    moved = ops.take_along_axis(x, order[..., None], axis=0)
    return ops.where(counts[..., None], moved, ops.zeros_like(moved))


def restore(initial: Array, history: Array, mask: Array) -> Array:
    """The state after each step of the masked sequence, (time, batch, units).

    ``history`` (time, batch, units) are the states after the steps of the compact sequence, and
    ``initial`` (batch, units) the one before: a masked step has the state of the step before.
    """
    states = ops.concatenate([ops.cast(initial, history.dtype)[None], history])
    number = ops.cumsum(ops.cast(mask, "int32"), axis=0)
    return ops.take_along_axis(states, number[..., None], axis=0)
