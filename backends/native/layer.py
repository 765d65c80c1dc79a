"""One layer over one sequence by the native library: the interface of ``numpy.bptt.Layer``.

Arrays are NumPy's, float32; those of other frameworks on a CPU are viewed as such.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatecore.algebra import Gate, negate
from gatecore.backends.common.buffer_pool import BufferPool
from gatecore.backends.common.fields import by_state, of_states, zoneout_fields
from gatecore.backends.common.layout import layout_of
from gatecore.backends.native import library
from gatecore.backends.native.call import layer_call

Array = Any
States = Sequence[Array | None]


class NativeLayer:
    """The native library's counterpart of ``numpy.bptt.Layer``, with its arguments.

    Arrays in C order are not copied. Unless the call saves for a backward pass, memory does not
    grow with the sequence. The options are ``threads`` (by default the engine's),
    ``instruction_set`` and ``split`` of :func:`call.layer_call`.
    """

    name = "native"

    @staticmethod
    def unsupported(call: Any, /) -> str | None:
        if call.cell.layer_norm:
            return "it has no layer normalization"
        return library.unsupported(np.dtype(call.dtype).name)

    def __init__(self, call: Any, acquire: Any, **options: Any) -> None:
        cell = call.cell
        self.call, self.params = call, _contiguous(call.params)
        if "threads" not in options:
            options["threads"] = call.engine.threads()
        self.layer_call = layer_call(cell, *call.steps, saves=call.save_for_backward, **options)
        resets = None if call.resets is None else call.resets.copy()
        zoneout = zoneout_fields(call.zoneout)
        self._fields = self.params | _contiguous({"resets": resets, **zoneout})
        if call.save_for_backward:
            self._fields["x"] = acquire(cell.input_size)
            self._fields |= {
                name: acquire(width, extra=steps - self.layer_call.time)
                for name, (steps, _, width) in self.layer_call.saved_shapes.items()
            }
        else:
            self._fields |= _empty(self.layer_call.saved_shapes)
        self._addresses = _addresses(self._fields)

    def forward(self, x: Array, initial: States) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        read = by_state("initial", self.call.states("state", initial))
        if self.call.save_for_backward:
            self._fields["x"][...] = x
        else:
            read["x"] = x
        results = _empty(self.layer_call.forward_shapes(self.call.return_cells))
        scratch = _SCRATCH.acquire((self.layer_call.forward_scratch,), np.float32)
        self._run(self.layer_call.forward, read, results, scratch)
        _SCRATCH.release([scratch])
        return tuple(of_states("output", results)), tuple(of_states("final", results))

    def scratch_shape(self, wrt_x: bool) -> tuple[int, ...]:
        return (self.layer_call.backward_scratch[wrt_x],)

    def backward(
        self, d_outputs: States, d_states: States, scratch: Array, wrt_x: bool = True
    ) -> tuple[dict[str, Array], Array | None, tuple[Array, ...]]:
        d_outputs, d_states = self.call.cotangents(d_outputs, d_states)
        read = by_state("d_output", d_outputs) | by_state("d_final", d_states)
        results = _empty(self.layer_call.backward_shapes(wrt_x))
        self._run(self.layer_call.backward, read, results, scratch)
        d_params = {name: results[f"d_{name}"] for name in self.params}
        return d_params, results.get("d_x"), tuple(of_states("d_initial", results))

    def forget_gate(self, main: bool = False) -> Gate:
        cell = self.call.cell
        if not cell.recurrent:
            logits = cell.split(cell.project(self.params, self._fields["x"]))
            gates = cell.mechanism.activate(logits)
            return gates["forget"] if main else cell.mechanism.combine(gates)[0]
        layout, gates = layout_of(cell), {}
        for slot in layout.complements:
            saved = self._fields["saved_gates"][..., layout.columns[slot]]
            gates[slot] = _ordered(saved) if slot in layout.ordered else _decoded(saved)
            if layout.mechanism.negated(slot):
                gates[slot] = negate(gates[slot])
        forget = gates["forget"] if main else layout.mechanism.combine(gates)[0]
        return Gate(*map(np.asarray, forget))

    def _run(self, call: Any, read: Any, results: dict[str, Array], scratch: Array) -> None:
        """Make one of the library's calls on these fields and the layer's own."""
        read = _contiguous(read)
        call(**self._addresses, **_addresses({**read, **results, "scratch": scratch}))


def release() -> None:
    """Free the scratch memory that is kept between calls."""
    _SCRATCH.clear()


_SCRATCH = BufferPool(np)


def _empty(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


def _contiguous(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields but for None, arrays in C order."""
    return {name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
            for name, value in fields.items() if value is not None}  # fmt: skip


def _addresses(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with an array's address in its place."""
    return {name: value.__array_interface__["data"][0] if isinstance(value, np.ndarray) else value
            for name, value in fields.items()}  # fmt: skip


def _decoded(code: Array) -> Gate:
    """A gate from its smaller side, which is negative if that is the complement."""
    smaller, negative = np.abs(code), np.signbit(code)
    larger = 1 - smaller
    return Gate(np.where(negative, larger, smaller), np.where(negative, smaller, larger))


def _ordered(weights: Array) -> Gate:
    """cumax from its softmax."""
    value = np.cumsum(weights, axis=-1)
    beyond = np.zeros_like(weights)
    beyond[..., :-1] = np.cumsum(weights[..., :0:-1], axis=-1)[..., ::-1]
    total = value + beyond
    return Gate(value / total, beyond / total)
