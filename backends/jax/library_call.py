"""One call of the native library from XLA, and its rule for ``jax.vmap``.

XLA calls the library itself where that was built with JAX's header ("ffi"), else through Python
("callback"). Mapped over data the call runs once, on a batch of all elements; mapped over the
weights it runs for one element after the other.
"""

import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jax.experimental.buffer_callback import buffer_callback

from gatecore.backends.jax import scan
from gatecore.backends.native import library
from gatecore.backends.native.call import LayerCall, layer_call
from gatecore.cells import Cell

Array = jax.Array
Fields = Mapping[str, Any]

FORWARD, BACKWARD = "gatecore_jax_forward", "gatecore_jax_backward"
_OF_STATES = ("initial_", "final_", "d_initial_", "d_final_")  # (batch, hidden); others have time


def native_call() -> str:
    """How JAX calls the native library: "ffi" or "callback".

    XLA calls it directly ("ffi") if JAX was installed when gatecore was; else, or where the
    environment variable GATECORE_JAX_CALL is "callback" when a function is traced, through Python.
    RuntimeError if the library cannot be used here; :func:`implementation` is then "reference".

    >>> from gatecore.backends.jax import implementation
    >>> implementation(np.float32) == "reference" or native_call() in ("ffi", "callback")
    True
    """
    by_callback = os.environ.get("GATECORE_JAX_CALL") == "callback"
    return "ffi" if not by_callback and _registered() else "callback"


@functools.cache
def _registered() -> bool:
    """Register the library's calls with XLA, once; whether the library has them."""
    names = (FORWARD, BACKWARD)
    if not all(hasattr(library.library(), name) for name in names):
        return False
    for name in names:
        capsule = jax.ffi.pycapsule(getattr(library.library(), name))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return True


def run(target: str, call: LayerCall, written: Iterable[str], read: Fields) -> dict[str, Array]:
    """The results ``written`` of FORWARD or BACKWARD, by field name, from the fields ``read``."""
    written = tuple(written)
    mapped = custom_vmap(functools.partial(_run, target, call, written))
    mapped.def_vmap(functools.partial(_run_mapped, target, call, written))
    return mapped(dict(read))


def _run(target: str, call: LayerCall, written: tuple[str, ...], read: Fields) -> dict[str, Array]:
    shapes = call.forward_shapes(cells=True) | call.saved_shapes
    scratch = call.forward_scratch
    if target == BACKWARD:
        shapes = call.backward_shapes() | call.logits_shape
        scratch = call.backward_scratch["d_x" in written]
    shapes = {name: shapes[name] for name in written} | {"scratch": (scratch,)}
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes.values()]
    if native_call() == "callback":
        callback = Callback(call, target == BACKWARD, (*read, *shapes))
        arrays = buffer_callback(callback, results, vmap_method="sequential")(*read.values())
    else:
        ffi = jax.ffi.ffi_call(target, results, vmap_method="sequential")
        arrays = ffi(*read.values(), **call.ffi_attributes(read, shapes))
    return dict(zip(written, arrays, strict=False))


def _run_mapped(target: str, call: LayerCall, written: tuple[str, ...], size: int,
                batched: Sequence[Any], read: Fields) -> Any:  # fmt: skip
    """:func:`run` of ``size`` elements, whose fields have a first axis where ``batched`` says."""
    (mapped,) = batched
    parameters = call.cell.parameter_shapes()
    gradients = tuple(name for name in written if name.removeprefix("d_") in parameters)
    shared = not any(mapped[name] for name in parameters if name in read)
    steps = size * call.time * call.batch  # without any, no logits hold the gradients
    if shared and (not gradients or (call.cell.recurrent and steps)):
        whole = {name: value if name in parameters else _folded(name, value, size, mapped[name])
                 for name, value in read.items()}  # fmt: skip
        larger = layer_call(call.cell, call.time, size * call.batch, threads=call.threads,
                            saves=call.saves)  # fmt: skip
        names = [name for name in written if name not in gradients]
        results = run(target, larger, (*names, *(["d_logits"] if gradients else ())), whole)
        split = {name: _split(name, value, (size, call.batch)) for name, value in results.items()}
        if gradients:
            split |= _gradients(call.cell, read, mapped, split.pop("d_logits"))
        results = {name: split[name] for name in written}
    else:
        axes = {name: 0 if axis else None for name, axis in mapped.items()}
        one = functools.partial(_run, target, call, written)
        results = jax.vmap(one, (axes,), axis_size=size)(dict(read))
    return results, dict.fromkeys(results, True)


def _axis(name: str) -> int:
    """The axis of the batch."""
    return 0 if name.startswith(_OF_STATES) else 1


def _folded(name: str, value: Array, size: int, mapped: bool) -> Array:
    """The field of all elements as one batch."""
    axis = _axis(name)
    value = value if mapped else jnp.broadcast_to(value, (size, *value.shape))
    value = jnp.moveaxis(value, 0, axis)
    rows = value.shape[axis] * value.shape[axis + 1]
    return value.reshape(*value.shape[:axis], rows, *value.shape[axis + 2 :])


def _split(name: str, value: Array, sizes: tuple[int, int]) -> Array:
    """The inverse of :func:`_folded`, for so many elements and sequences in each."""
    axis = _axis(name)
    shape = (*value.shape[:axis], *sizes, *value.shape[axis + 1 :])
    return jnp.moveaxis(value.reshape(shape), axis, 0)


def _gradients(cell: Cell, read: Fields, mapped: Fields, d_logits: Array) -> dict[str, Array]:
    """Each element's gradients of the parameters, from the cotangents of its logits."""
    params = {name: read[name] for name in cell.parameter_shapes()}

    def gradients(x: Array, hidden: Array, d_logits: Array) -> dict[str, Array]:
        d_params = scan.parameter_cotangents(cell, params, x, hidden[:-1], d_logits)
        return {f"d_{name}": value for name, value in d_params.items()}

    axes = (*(0 if mapped[name] else None for name in ("x", "saved_hidden")), 0)
    return jax.vmap(gradients, axes)(read["x"], read["saved_hidden"], d_logits)


@dataclasses.dataclass(frozen=True)
class Callback:
    """One of the library's calls for XLA: what jax_ffi.cpp does, in Python, on XLA's own buffers.

    JAX compiles equal ones once. ``jax.pure_callback`` would not do: it copies large arguments on
    a thread of XLA's, and never ends where all of those run steps.
    """

    call: LayerCall
    backward: bool  # whether it makes the library's backward call
    fields: tuple[str, ...]  # of the arguments' buffers, then of the results'

    def __call__(self, context: object, results: Sequence[Any], *arguments: Any) -> None:
        buffers = map(np.asarray, (*arguments, *results))
        run = self.call.backward if self.backward else self.call.forward
        run(**{
            name: buffer.ctypes.data if buffer.size else None
            for name, buffer in zip(self.fields, buffers, strict=True)
        })  # fmt: skip
