"""One layer over one sequence by the native library: the interface of ``numpy.bptt.Layer``.

Arrays are NumPy's, float32; those of other frameworks on a CPU are viewed as such.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatecore.algebra import Gate, negate
from gatecore.backends.common.buffer_pool import Workspace
from gatecore.backends.common.layout import plan
from gatecore.backends.common.validation import array, state_parts, zoneout_amounts
from gatecore.backends.native.call import by_state, layer_call, of_states, zoneout_fields
from gatecore.cells import Cell

Array = Any


class NativeLayer:
    """The native library's counterpart of ``numpy.bptt.Layer``.

    Parameters
    ----------
    cell, params, take, resets, zoneout, steps, dtype
        As there; arrays in C order are not copied.
    saves : bool
        Whether a backward may follow; without, memory does not grow with the sequence.
    **options
        ``threads``, ``instruction_set`` and ``split`` of :func:`call.layer_call`.
    """

    path = "native"

    def __init__(
        self,
        cell: Cell,
        params: Mapping[str, Array],
        take: Any,
        resets: Array | None,
        zoneout: Any,
        steps: tuple[int, int],
        dtype: Any,
        *,
        saves: bool = True,
        **options: Any,
    ) -> None:
        self.cell, self.dtype, self.saves = cell, dtype, saves
        self.call = layer_call(cell, *steps, saves=saves, **options)
        self.params = {name: np.ascontiguousarray(value) for name, value in params.items()}
        if resets is not None:
            resets = array("resets", resets, steps, "bool", "(time, batch)").copy()
        amounts = zoneout_amounts(cell, zoneout, steps, dtype)
        self._fields = self.params | _contiguous({"resets": resets, **zoneout_fields(amounts)})
        if saves:
            self._fields |= {"saved_gates": take(self.call.stride), "x": take(cell.input_size)}
            states = [take(cell.hidden_size, extra=1) for _ in cell.state_names]
            self._fields |= by_state("saved", states)
        else:
            self._fields |= _empty(self.call.saved_shapes)
        self._addresses = _addresses(self._fields)

    def forward(self, x: Array, state: Any, return_cells: bool = False) -> tuple[Any, Any]:
        """All steps from x (time, batch, input): the outputs, and the last state."""
        read = {}
        if self.saves:
            self._fields["x"][...] = x
        else:
            read["x"] = x
        shapes = self.call.forward_shapes(return_cells)
        initial = state_parts(self.cell, state, shapes["final_hidden"], self.dtype)
        results, scratch = _empty(shapes), _SCRATCH.take((self.call.forward_scratch,), np.float32)
        read |= by_state("initial", initial)
        self._run(self.call.forward, read, results, scratch)
        _SCRATCH.give([scratch])
        outputs = of_states("output", results)
        final = self.cell.state(of_states("final", results))
        return tuple(outputs) if return_cells else outputs[0], final

    def scratch_shape(self, wrt_x: bool) -> tuple[int, ...]:
        """Shape of the scratch memory of :meth:`backward`."""
        return (self.call.backward_scratch[wrt_x],)

    def backward(
        self, d_outputs: Sequence[Array | None], d_state: Any, scratch: Array, wrt_x: bool = True
    ) -> tuple[dict[str, Array], Array | None, Any]:
        """Cotangents of the parameters, of x (or None), and of the initial state.

        ``scratch`` has the shape :meth:`scratch_shape`.
        """
        shapes = self.call.backward_shapes(wrt_x)
        final = shapes["d_initial_hidden"]
        full = (self.call.time, *final)
        for part in d_outputs:
            if part is not None:
                array("d_output", part, full, self.dtype, "(time, batch, hidden)")
        d_final = state_parts(self.cell, d_state, final, self.dtype, "d_state")
        read = by_state("d_output", d_outputs) | by_state("d_final", d_final)
        results = _empty(shapes)
        self._run(self.call.backward, read, results, scratch)
        d_params = {name: results[f"d_{name}"] for name in self.params}
        return d_params, results.get("d_x"), self.cell.state(of_states("d_initial", results))

    def forget_gate(self) -> Gate:
        """The effective forget gate of every step, (time, batch, hidden) each side."""
        layout, gates = plan(self.cell), {}
        for slot in layout.complements:
            saved = self._fields["saved_gates"][..., layout.columns[slot]]
            gates[slot] = _ordered(saved) if slot in layout.ordered else _decoded(saved)
            if layout.mechanism.negated(slot):
                gates[slot] = negate(gates[slot])
        return Gate(*map(np.asarray, layout.mechanism.combine(gates)[0]))

    def _run(
        self, call: Any, read: Mapping[str, Any], results: Mapping[str, Array], scratch: Array
    ) -> None:
        """Make one of the library's calls on these fields and the layer's own."""
        read = _contiguous(read)
        call(**self._addresses, **_addresses({**read, **results, "scratch": scratch}))


def release() -> None:
    """Free the scratch memory that is kept between calls."""
    _SCRATCH.release()


_SCRATCH = Workspace(np)


def _empty(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    return {name: np.empty(shape, np.float32) for name, shape in shapes.items()}


def _contiguous(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there, arrays in C order."""
    return {
        name: np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
        if value is not None
    }


def _addresses(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, with an array's address in its place."""
    return {
        name: value.__array_interface__["data"][0] if isinstance(value, np.ndarray) else value
        for name, value in fields.items()
    }


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
