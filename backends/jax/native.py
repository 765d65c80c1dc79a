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
from jax.custom_derivatives import SymbolicZero

from gatecore.backends.jax import host_callback, scan
from gatecore.backends.native import library
from gatecore.backends.native.call import LayerCall, by_state, layer_call, of_states

Array = jax.Array
Params = dict[str, Array]

# Multiplications for one gate's logits from which a training step by callbacks, 0.1 ms dearer than
# XLA's own calls, was faster than the scan's: .07 ms against .11 at 6,000, both .15 at 90,000, .48
# against .30 at 460,000
CALLBACK_PAYS = 1e5
_FORWARD, _BACKWARD = "gatecore_jax_forward", "gatecore_jax_backward"


def obstacle(dtype: Any) -> str | None:
    """Why the library cannot run arrays of this type here, None if it can."""
    if jax.default_backend() != "cpu":
        return f"it needs a CPU, and JAX's default is {jax.default_backend()}"
    return library.unsupported(jnp.dtype(dtype).name)


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
) -> tuple[scan.State, scan.State, dict[str, Array]]:  # fmt: skip
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
    call = _layer_call(layer, sequence, saves=True)
    d_outputs, d_final = cotangents
    read = {**_read(params, sequence), **saved, **by_state("d_output", d_outputs),
            **by_state("d_final", d_final)}  # fmt: skip
    scratch = {"scratch": (call.backward_scratch[wants_x],)}
    found = _run(call, _BACKWARD, read, call.backward_shapes(wants_x) | scratch)
    d_params = {name: found[f"d_{name}"] for name in params}
    d_x = found["d_x"] if wants_x else jnp.zeros_like(sequence.x)
    return d_params, tuple(of_states("d_initial", found)), d_x


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


def _forward(
    layer: scan.Layer, shown: int, params: Params, start: scan.State, sequence: scan.Sequence,
    saves: bool,
) -> tuple[scan.State, scan.State, dict[str, Array]]:  # fmt: skip
    """The states after each step, the last one, and what backward reads."""
    call = _layer_call(layer, sequence, saves)
    read = _read(params, sequence) | by_state("initial", start)
    saved = call.saved_shapes
    shapes = {**call.forward_shapes(shown == 2), **saved, "scratch": (call.forward_scratch,)}
    found = _run(call, _FORWARD, read, shapes)
    outputs, final = (tuple(of_states(name, found)) for name in ("output", "final"))
    return outputs, final, {name: found[name] for name in saved}


def _run(
    call: LayerCall, target: str, read: dict[str, Array], written: dict[str, tuple[int, ...]]
) -> dict[str, Array]:
    """The results of one of the library's calls, by field name, from their shapes."""
    results = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in written.values()]
    if native_call() == "callback":
        host = host_callback.Host(call, target == _BACKWARD, tuple(read), tuple(written))
        found = host_callback.call(host, results, list(read.values()))
    else:
        ffi = jax.ffi.ffi_call(target, results, vmap_method="sequential")
        found = ffi(*read.values(), **call.ffi_attributes(read, written))
    return dict(zip(written, found, strict=True))


def _layer_call(layer: scan.Layer, sequence: scan.Sequence, saves: bool) -> LayerCall:
    time, batch, _ = sequence.x.shape
    return layer_call(layer.cell, time, batch, threads=library.cores(), saves=saves)


def _read(params: Params, sequence: scan.Sequence) -> dict[str, Array]:
    """The fields that both calls read."""
    x, resets, zoneout = sequence
    fields = {"x": x, **params}
    if resets is not None:
        fields["resets"] = resets[..., 0]
    if zoneout is not None:
        parts = zoneout if isinstance(zoneout, tuple) else (zoneout,)
        full = (*x.shape[:2], params["weight_hh"].shape[1])
        masks = [jnp.broadcast_to(part, full) for part in reversed(parts)]
        fields |= by_state("zoneout_mask", masks)
    return fields
