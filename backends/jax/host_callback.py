"""The native library's two calls by the host, for a library that was built without JAX's header.

What jax_ffi.cpp does, in Python, on XLA's own buffers. ``jax.pure_callback`` would not do: it
copies large arguments on a thread of XLA's, and where all of those run steps it never ends.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from gatecore.backends.native.call import LayerCall

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Host:
    """What XLA calls. Equal ones are one to JAX, which compiles a call of theirs once.

    Parameters
    ----------
    layer : LayerCall
    backward : bool
        Whether it makes the library's backward call.
    read, written : tuple of str
        The fields that its arguments and its results are the buffers of.
    """

    layer: LayerCall
    backward: bool
    read: tuple[str, ...]
    written: tuple[str, ...]

    def __call__(self, context: object, results: Sequence[Any], *arguments: Any) -> None:
        buffers = map(np.asarray, (*arguments, *results))
        fields = dict(zip((*self.read, *self.written), buffers, strict=True))
        call = self.layer.backward if self.backward else self.layer.forward
        call(**{name: array.ctypes.data if array.size else None for name, array in fields.items()})


def call(host: Host, results: Sequence[jax.ShapeDtypeStruct], arguments: Sequence[Array]) -> Any:
    """A call's results, under any of JAX's transformations; mapped, one after the other."""
    return buffer_callback(host, results, vmap_method="sequential")(*arguments)
