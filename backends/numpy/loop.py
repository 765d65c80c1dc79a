"""The time loop, forward and backward: what every implementation of the steps inherits.

One that runs a whole sequence in its own way, as the fused kernels do, overrides both methods.
"""

from collections.abc import Sequence
from typing import Any

Array = Any


class Loop:
    """Runs one step after the other, and multiplies by the recurrent weights between them.

    ``keep`` (time, batch, 1) is the factor of the state before each step, or None for 1. What the
    attributes and methods mean that a subclass provides is said at ``Steps``.
    """

    path = "array operations"  # what runs the steps, for whoever asks

    xp: Any
    plan: Any
    logits: Array
    hidden: Array
    bias: Any
    states: Any
    cotangents: Any
    gates: Any
    forward: Any
    backward: Any
    d_hidden: Array
    direct: bool

    def sweep(self, engine: Any, weights: Array, keep: Array | None, shown: int) -> Any:
        """All steps from ``states[..][0]``: copies of the first ``shown`` states after each."""
        multiply = engine.product(weights.T, self.logits.shape[1])
        factors, states = _factors(keep), self.states
        outputs = tuple(self.xp.empty(s[1:].shape, dtype=s.dtype) for s in states[:shown])
        for t in range(len(self.logits)):
            self._reset(factors, t, [s[t] for s in states])
            self.forward(t, multiply(self.hidden[t]))
            for output, state in zip(outputs, states, strict=False):
                output[t] = state[t + 1]
        return outputs

    def sweep_back(
        self,
        engine: Any,
        weights: Array,
        keep: Array | None,
        d_logits: Array,
        given: Sequence[Array | None],
    ) -> None:
        """From the last states' ``cotangents`` to the first ones', in place, and ``d_logits``.

        ``given`` are the cotangents of the states that :meth:`sweep` showed.
        """
        xp, running = self.xp, self.cotangents
        multiply = engine.product(weights, self.logits.shape[1])
        factors = _factors(keep)
        pairs = [(r, g) for r, g in zip(running, given, strict=False) if g is not None]
        window = d_logits[..., self.plan.state_window]
        for t in reversed(range(len(d_logits))):
            for cotangent, outer in pairs:
                xp.add(cotangent, outer[t], out=cotangent)
            self.backward(t, d_logits[t])
            through = multiply(window[t])
            if self.direct:
                xp.add(self.d_hidden, through, out=self.d_hidden)
            else:
                self.d_hidden[...] = through
            self._reset(factors, t, running)

    def _reset(self, factors: Any, t: int, arrays: Sequence[Array]) -> None:
        if factors is not None and factors[t] is not None:
            for array in arrays:
                self.xp.multiply(array, factors[t], out=array)


def _factors(keep: Array | None) -> list[Array | None] | None:
    """For each step its factor (batch, 1), None where nothing is reset."""
    if keep is None:
        return None
    all_kept = keep.all((1, 2)).tolist()
    return [None if kept else factor for factor, kept in zip(keep, all_kept, strict=True)]
