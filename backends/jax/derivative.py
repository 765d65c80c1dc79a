"""The backward pass of one step, with the derivatives of the gates by hand.

The gates' derivatives are those of ``common.derivative``; JAX differentiates the rest of a step.
"""

from collections.abc import Mapping
from typing import Any

import jax

from gatecore.backends.common.derivative import gates_vjp
from gatecore.cells import Cell

Array = jax.Array
Logits = Mapping[str, Array]


def step_backward(cell: Cell, logits: Logits, state: Any, zoneout: Any,
                  d_state: Any) -> tuple[dict[str, Array], Any]:  # fmt: skip
    """Cotangents of a step's logits, by slot, and of its old state but for the recurrent weights.

    ``d_state`` is the cotangent of the new state; ``state`` is the old one.
    """
    gates = cell.mechanism.gates(logits)
    _, pullback = jax.vjp(
        lambda logits, gates, state: cell.complete(logits, gates, state, zoneout),
        dict(logits), gates, state,
    )  # fmt: skip
    d_logits, d_gates, d_old = pullback(d_state)
    d_values = (d.value - d.complement for d in d_gates)
    return {**d_logits, **gates_vjp(cell.mechanism, logits, *d_values)}, d_old
