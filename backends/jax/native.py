"""One layer over a whole sequence by the native CPU library.

XLA calls it itself where it was built with JAX's header, else through the host (``callback``). The
forward call keeps what the backward one reads, as ``scan`` does. The derivative of the backward
call is that of the scan's, so gradients of any order exist. Absent arrays have no elements here.
"""

import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from gatecore.backends.jax import host_callback, scan
from gatecore.backends.native import library
from gatecore.backends.native.layer import Shape, shape_of

Array = jax.Array
Params = dict[str, Array]

# Multiplications for one gate's logits from which a training step by callbacks, 0.1 ms dearer than
# XLA's own calls, was faster than the scan's: .07 ms against .11 at 6,000, both .15 at 90,000, .48
# against .30 at 460,000
CALLBACK_PAYS = 1e5
_FORWARD, _BACKWARD = "gatecore_jax_forward", "gatecore_jax_backward"
_FIELDS = 19  # of the library's struct, before the pointers


def obstacle(dtype: Any) -> str | None:
    """Why the library cannot run arrays of this type here, None if it can."""
    if jnp.dtype(dtype) != jnp.float32:
        return f"it computes in float32, not {jnp.dtype(dtype)}"
    if jax.default_backend() != "cpu":
        return f"it needs a CPU, and JAX's default is {jax.default_backend()}"
    return library.missing()


def automatic(dtype: Any, sizes: tuple[int, int, int, int] | None = None) -> bool:
    """Whether ``impl="auto"`` takes the library: XLA would not divide its call between devices.

    A call through the host has a price, which a short sequence of (time, batch, input, hidden)
    ``sizes`` does not earn back.
    """
    if obstacle(dtype) is not None or jax.device_count() > 1:
        return False
    if sizes is None or native_call() == "ffi":
        return True
    time, batch, inputs, hidden = sizes
    return time * batch * hidden * (hidden + inputs) >= CALLBACK_PAYS


def native_call() -> str:
    """How JAX calls the native library: "ffi" or "callback".

    XLA calls it itself where it was built beside JAX; else, or where the environment variable
    GATECORE_JAX_CALL is "callback" when a function is traced, through the host.

    Raises
    ------
    RuntimeError
        The library is missing.
    """
    by_host = os.environ.get("GATECORE_JAX_CALL") == "callback"
    return "ffi" if not by_host and _registered() else "callback"


@functools.cache
def _registered() -> bool:
    """Make the calls known to XLA, once; whether the library has them."""
    names = (_FORWARD, _BACKWARD)
    if not all(hasattr(library.library(), name) for name in names):
        return False
    for name in names:
        capsule = jax.ffi.pycapsule(getattr(library.library(), name))
        jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    return True


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def explicit(
    layer: scan.Layer, shown: int, params: Params, start: scan.State, sequence: scan.Sequence
) -> tuple[scan.State, scan.State]:
    """What :func:`scan.explicit` returns, from the parameters as they are."""
    states, last, _ = _forward(layer, shown, params, start, sequence, saves=False)
    return states, last


def _explicit_forward(
    layer: scan.Layer, shown: int, params: Any, start: Any, sequence: Any
) -> tuple[Any, Any]:
    wants_x = sequence.x.perturbed
    params, start, sequence = jax.tree.map(
        lambda given: given.value, (params, start, sequence), is_leaf=lambda g: hasattr(g, "value")
    )
    states, last, saved = _saving(layer, shown, wants_x, params, start, sequence)
    # what is static goes as a shape, not as a value
    return (states, last), (() if wants_x else None, params, start, sequence, saved)


def _explicit_backward(layer: scan.Layer, shown: int, kept: Any, cotangents: Any) -> Any:
    wants_x, params, start, sequence, saved = kept
    given = jax.tree.map(
        lambda c: jnp.zeros(c.shape, c.dtype) if isinstance(c, SymbolicZero) else c, cotangents,
        is_leaf=lambda c: isinstance(c, SymbolicZero),
    )  # fmt: skip
    wanted = wants_x is not None
    return _pulled(layer, shown, wanted, params, start, sequence, saved, given)


explicit.defvjp(_explicit_forward, _explicit_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _saving(
    layer: scan.Layer, shown: int, wants_x: bool, params: Params, start: scan.State,
    sequence: scan.Sequence,
) -> tuple[scan.State, scan.State, tuple[Array, ...]]:  # fmt: skip
    """The forward call that keeps what backward reads. What it keeps is taken for a constant."""
    return _forward(layer, shown, params, start, sequence, saves=True)


def _saving_forward(
    layer: scan.Layer, shown: int, wants_x: bool, params: Any, start: Any, sequence: Any
) -> tuple[Any, Any]:
    result = _saving(layer, shown, wants_x, params, start, sequence)
    return result, (params, start, sequence, result[2])


def _saving_backward(
    layer: scan.Layer, shown: int, wants_x: bool, kept: Any, cotangents: Any
) -> Any:
    params, start, sequence, saved = kept
    return _pulled(layer, shown, wants_x, params, start, sequence, saved, cotangents[:2])


_saving.defvjp(_saving_forward, _saving_backward)


def _pulled(
    layer: scan.Layer, shown: int, wants_x: bool, params: Params, start: scan.State,
    sequence: scan.Sequence, saved: Any, cotangents: Any,
) -> tuple[Params, scan.State, scan.Sequence]:  # fmt: skip
    """Cotangents of parameters, initial state and sequence."""
    d_params, d_start, d_x = _pull(
        layer, shown, wants_x, params, start, sequence, saved, cotangents
    )
    d_zoneout = jax.tree.map(jnp.zeros_like, sequence.zoneout)
    return d_params, d_start, scan.Sequence(d_x, None, d_zoneout)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _pull(
    layer: scan.Layer, shown: int, wants_x: bool, params: Params, start: scan.State,
    sequence: scan.Sequence, saved: Any, cotangents: Any,
) -> tuple[Params, scan.State, Array]:  # fmt: skip
    """Cotangents of the parameters, of the initial state, and of x (zeros unless wanted)."""
    shape, threads = _shape(layer, sequence)
    d_outputs, d_last = cotangents
    results = {
        "d_hidden": start[0].shape, "d_cell": start[1].shape if len(start) == 2 else (0,),
        "d_x": sequence.x.shape if wants_x else (0,),
        **{f"d_{name}": params[name].shape if name in params else (0,) for name in _NAMES},
        "scratch": (shape.backward_scratch[wants_x],),
    }  # fmt: skip
    found = _call(
        _BACKWARD, layer, shape, threads, results,
        [*_arguments(params, sequence), *saved, *_two(d_outputs), *_two(d_last)],
    )  # fmt: skip
    d_params = {name: found[f"d_{name}"] for name in params}
    d_x = found["d_x"] if wants_x else jnp.zeros_like(sequence.x)
    return d_params, (found["d_hidden"], found["d_cell"])[: len(start)], d_x


def _pull_forward(
    layer: scan.Layer, shown: int, wants_x: bool, params: Params, start: Any, sequence: Any,
    saved: Any, cotangents: Any,
) -> tuple[Any, Any]:  # fmt: skip
    result = _pull(layer, shown, wants_x, params, start, sequence, saved, cotangents)
    return result, (params, start, sequence, saved, cotangents)


def _pull_backward(
    layer: scan.Layer, shown: int, wants_x: bool, given: Any, second: Any
) -> tuple[Any, ...]:
    """By the scan, whose own derivative JAX differentiates."""
    params, start, sequence, saved, cotangents = given

    def reference(params: Params, start: Any, x: Array) -> Any:
        wide = scan.widened(x.dtype)
        run = sequence._replace(x=x)
        return scan.explicit(layer, shown, *scan.pack(layer, params, wide), start, run)

    def pull(params: Params, start: Any, x: Array, cotangents: Any) -> Any:
        d_params, d_start, d_x = jax.vjp(reference, params, start, x)[1](cotangents)
        return d_params, d_start, d_x if wants_x else jnp.zeros_like(x)

    d_params, d_start, d_x, d_cotangents = jax.vjp(pull, params, start, sequence.x, cotangents)[1](
        second
    )
    d_sequence = scan.Sequence(d_x, None, jax.tree.map(jnp.zeros_like, sequence.zoneout))
    return d_params, d_start, d_sequence, jax.tree.map(jnp.zeros_like, saved), d_cotangents


_pull.defvjp(_pull_forward, _pull_backward)

_NAMES = ("weight_ih", "weight_hh", "bias", "bias_n")


def _forward(
    layer: scan.Layer, shown: int, params: Params, start: scan.State, sequence: scan.Sequence,
    saves: bool,
) -> tuple[scan.State, scan.State, tuple[Array, ...]]:  # fmt: skip
    """The states after each step, the last one, and what backward reads."""
    shape, threads = _shape(layer, sequence)
    time, batch, _ = sequence.x.shape
    full, kept = (time, batch, layer.hidden_size), (time + 1 if saves else 2)
    states = (kept, batch, layer.hidden_size)
    results = {
        "hidden": full, "cell": full if shown == 2 else (0,), "hiddens": states,
        "cells": states if len(start) == 2 else (0,),
        "gates": (time if saves else 1, batch, shape.stride), "scratch": (shape.forward_scratch,),
    }  # fmt: skip
    found = _call(
        _FORWARD, layer, shape, threads, results, [*_arguments(params, sequence), *_two(start)],
        saves=np.int32(saves),
    )  # fmt: skip
    at = time if saves else time % 2
    last = tuple(found[name][at] for name in ("hiddens", "cells")[: len(start)])
    saved = (found["gates"], found["hiddens"], found["cells"])
    return (found["hidden"], found["cell"])[:shown], last, saved


def _call(
    name: str, layer: scan.Layer, shape: Shape, threads: int, results: dict[str, Any],
    arguments: list[Array], **further: Any,
) -> dict[str, Array]:  # fmt: skip
    """The call's results by name, from their shapes; ``further`` are its other numbers."""
    made = [jax.ShapeDtypeStruct(size, jnp.float32) for size in results.values()]
    if native_call() == "callback":
        time, batch, _ = arguments[0].shape
        saves = bool(further.get("saves", True))
        host = host_callback.Host(layer, (time, batch), threads, name == _BACKWARD, saves)
        return dict(zip(results, host_callback.call(host, made, arguments), strict=True))
    fields = np.frombuffer(bytes(shape.struct), np.int32, _FIELDS)
    rows = dict(zip(("input_rows", "state_rows"), shape.orders, strict=True))
    call = jax.ffi.ffi_call(name, made, vmap_method="sequential")
    found = call(*arguments, fields=fields, **rows, threads=np.int32(threads), **further)
    return dict(zip(results, found, strict=True))


def _shape(layer: scan.Layer, sequence: scan.Sequence) -> tuple[Shape, int]:
    threads, chosen = library.cores(), library.best_instruction_set()
    sizes, steps = (layer.input_size, layer.hidden_size), sequence.x.shape[:2]
    shape = shape_of(layer.core, layer.mechanism, sizes, steps, threads, chosen, "auto")
    return shape, threads


def _arguments(params: Params, sequence: scan.Sequence) -> list[Array]:
    """What both calls begin with."""
    x, resets, zoneout = sequence
    absent = jnp.zeros((0,), jnp.float32)
    parts = (None, None, *(zoneout or ()))[-2:]
    full = (*x.shape[:2], params["weight_hh"].shape[1])
    draws = [absent if part is None else jnp.broadcast_to(part, full) for part in parts]
    flags = jnp.zeros((0,), bool) if resets is None else resets[..., 0]
    return [x, *(params.get(name, absent) for name in _NAMES), flags, *draws]


def _two(parts: tuple[Array, ...]) -> list[Array]:
    """A pair, of which the second may be absent."""
    return [*parts, jnp.zeros((0,), jnp.float32)][:2]
