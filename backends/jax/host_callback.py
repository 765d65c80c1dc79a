"""The native library's two calls by the host, for a library that was built without JAX's header.

What jax_ffi.cpp does, in Python, on XLA's own buffers. Arguments and results come in the order of
``native``, and what has no elements stands for what is absent. ``jax.pure_callback`` would not do:
it copies large arguments on a thread of XLA's, and where all of those run steps it never ends.
"""

import ctypes
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from gatecore.backends.jax.scan import Layer
from gatecore.backends.native import library
from gatecore.backends.native.layer import shape_of

Array = jax.Array

_READ = (
    "x", "weight_ih", "weight_hh", "bias", "bias_n", "resets", "keep_cell", "keep_hidden",
)  # fmt: skip
_WRITTEN = ("output", "output_cell", "hidden", "cell", "gates", "scratch")
_SAVED = ("gates", "hidden", "cell")
_D_WRITTEN = (
    "d_hidden", "d_cell", "d_x", "d_weight_ih", "d_weight_hh", "d_bias", "d_bias_n", "scratch",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Host:
    """What XLA calls. Equal ones are one to JAX, which compiles a call of theirs once.

    Parameters
    ----------
    layer : Layer
    steps : (time, batch)
    threads : int
    backward : bool
        Whether it makes the library's backward call.
    saves : bool
        Of a forward call: whether a backward may follow.
    """

    layer: Layer
    steps: tuple[int, int]
    threads: int
    backward: bool
    saves: bool = True

    def __call__(self, context: object, results: Sequence[Any], *arguments: Any) -> None:
        made, given = (list(map(np.asarray, buffers)) for buffers in (results, arguments))
        sizes, chosen = (
            (self.layer.input_size, self.layer.hidden_size),
            library.best_instruction_set(),
        )
        shape = shape_of(
            self.layer.core, self.layer.mechanism, sizes, self.steps, self.threads, chosen, "auto"
        )
        if self.backward:
            library.call("gatecore_run_backward", shape.struct, _backward(given, made))
        else:
            library.call("gatecore_run_forward", shape.struct, _forward(given, made, self.saves))


def call(host: Host, made: Sequence[jax.ShapeDtypeStruct], arguments: Sequence[Array]) -> Any:
    """A call's results, under any of JAX's transformations; mapped, one after the other."""
    return buffer_callback(host, made, vmap_method="sequential")(*arguments)


def _forward(given: list[np.ndarray], made: list[np.ndarray], saves: bool) -> library.ForwardStruct:
    """The struct of a forward call, after the initial state is put where it starts from."""
    *read, hidden, cell = given
    struct = library.ForwardStruct(saves=saves)
    _point(struct, _READ, read)
    _point(struct, _WRITTEN, made)
    for states, start in ((made[2], hidden), (made[3], cell)):
        if states.size:
            states[0] = start
    return struct


def _backward(given: list[np.ndarray], made: list[np.ndarray]) -> library.BackwardStruct:
    """The struct of a backward call, after the last state's cotangent is put where it runs."""
    *read, d_output, d_output_cell, d_hidden, d_cell = given
    forward = library.ForwardStruct(saves=True)
    _point(forward, (*_READ, *_SAVED), read)
    struct = library.BackwardStruct(forward=ctypes.pointer(forward))
    _point(struct, ("d_output", "d_output_cell"), (d_output, d_output_cell))
    _point(struct, _D_WRITTEN, made)
    made[0][...], made[1][...] = d_hidden, d_cell
    return struct


def _point(struct: ctypes.Structure, names: Iterable[str], arrays: Iterable[np.ndarray]) -> None:
    """Let fields point to arrays."""
    for name, array in zip(names, arrays, strict=True):
        setattr(struct, name, array.ctypes.data if array.size else None)
