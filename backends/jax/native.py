"""A layer over a whole sequence by the native CPU library.

The library computes first derivatives; those of its two calls come from the scan.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from gatecore.backends.common.fields import by_state, of_states
from gatecore.backends.jax import library_call, scan
from gatecore.backends.jax.arguments import Arguments, States
from gatecore.backends.jax.implementation import Call, Implementation
from gatecore.backends.native import library
from gatecore.backends.native.call import LayerCall, layer_call
from gatecore.cells import Cell

Array = jax.Array

# Multiplications for one gate's logits from which a training step by callbacks, 0.1 ms dearer than
# XLA's own calls, was faster than the scan's: .07 ms against .11 at 6,000, both .15 at 90,000, .48
# against .30 at 460,000
CALLBACK_PAYS = 1e5


def unsupported(call: Call) -> str | None:
    """Why the library cannot run the call here; None if it can."""
    if call.autodiff:
        return "autodiff=True asks for the scan"
    if call.layer_norm:
        return "it has no layer normalization"
    if jax.default_backend() != "cpu":
        return f"it needs a CPU, and JAX's default is {jax.default_backend()}"
    return library.unsupported(jnp.dtype(call.dtype).name)


def preferred(call: Call) -> bool:
    """Whether ``impl="auto"`` runs the call by the library.

    XLA does not divide it between devices, and on short sequences a callback costs more than the
    library gains.
    """
    if unsupported(call) is not None or jax.device_count() > 1:
        return False
    if call.sizes is None or library_call.native_call() == "ffi":
        return True
    time, batch, inputs, hidden = call.sizes
    return time * batch * hidden * (hidden * call.recurrent + inputs) >= CALLBACK_PAYS


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _forward(cell: Cell, num_outputs: int, saves: bool,
             arguments: Arguments) -> tuple[States, States, dict[str, Array]]:  # fmt: skip
    """The outputs, the final state, and the saved arrays, which are constants to JAX."""
    call = _layer_call(cell, arguments, saves)
    read = _read(arguments) | by_state("initial", arguments.initial)
    written = call.forward_shapes(num_outputs == 2) | call.saved_shapes
    results = library_call.run(library_call.FORWARD, call, written, read)
    outputs, final = (tuple(of_states(name, results)) for name in ("output", "final"))
    return outputs, final, {name: results[name] for name in call.saved_shapes}


@_forward.defjvp
def _forward_jvp(cell: Cell, num_outputs: int, saves: bool, primals: Any, tangents: Any) -> Any:
    """By the scan's forward."""
    results = _forward(cell, num_outputs, saves, *primals)
    run = functools.partial(scan.forward, cell, num_outputs, False)
    _, (*d_results, _) = jax.jvp(run, primals, tangents)
    return results, (*d_results, jax.tree.map(jnp.zeros_like, results[2]))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def _backward(cell: Cell, num_outputs: int, wrt_x: bool, arguments: Arguments, saved: Any,
              cotangents: Any) -> tuple[dict[str, Array], States, Array]:  # fmt: skip
    """Cotangents of the parameters, the initial state and x."""
    call = _layer_call(cell, arguments, saves=True)
    d_outputs, d_final = cotangents
    read = _read(arguments) | saved
    read |= by_state("d_output", d_outputs) | by_state("d_final", d_final)
    results = library_call.run(library_call.BACKWARD, call, call.backward_shapes(wrt_x), read)
    d_params = {name: results[f"d_{name}"] for name in arguments.params}
    d_x = results["d_x"] if wrt_x else jnp.zeros_like(arguments.x)
    return d_params, tuple(of_states("d_initial", results)), d_x


@_backward.defjvp
def _backward_jvp(cell: Cell, num_outputs: int, wrt_x: bool, primals: Any, tangents: Any) -> Any:
    """By the scan's backward, which JAX differentiates; the arguments determine what is saved."""

    def backward(arguments: Arguments, d_results: Any) -> Any:
        *_, saved = scan.forward(cell, num_outputs, True, arguments)
        return scan.backward(cell, num_outputs, wrt_x, arguments, saved, d_results)

    results = _backward(cell, num_outputs, wrt_x, *primals)
    return results, jax.jvp(backward, primals[::2], tangents[::2])[1]


NATIVE = Implementation("native", unsupported, _forward, _backward)


def _layer_call(cell: Cell, arguments: Arguments, saves: bool) -> LayerCall:
    time, batch, _ = arguments.x.shape
    return layer_call(cell, time, batch, threads=library.cores(), saves=saves)


def _read(arguments: Arguments) -> dict[str, Array]:
    """The fields that both calls read."""
    params, initial, x, resets, zoneout = arguments
    fields = {"x": x, **params}
    if resets is not None:
        fields["resets"] = resets[..., 0]
    if zoneout is not None:
        shape = (len(x), *initial[0].shape)
        masks = [jnp.broadcast_to(part, shape) for part in reversed(zoneout)]
        fields |= by_state("zoneout_mask", masks)
    return fields
