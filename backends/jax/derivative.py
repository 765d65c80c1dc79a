"""The backward pass of one step, with the derivatives of the gates by hand.

The gates' derivatives are those of ``common.derivative``; JAX differentiates the rest of a step.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import jax

from gatecore.backends.common.derivative import gates_vjp
from gatecore.cells import Cell

Array = jax.Array
Logits = Mapping[str, Array]
_NO_PARAMS: Logits = MappingProxyType({})


def step_backward(
    cell: Cell, logits: Logits, state: Any, zoneout: Any, d_state: Any, params: Logits = _NO_PARAMS
) -> tuple[dict[str, Array], Any, Any]:
    """Cotangents of a step's logits, by slot, of its old state, and of ``params``.

    ``d_state`` is the cotangent of the new state; ``state`` is the old one, whose product with the
    recurrent weights is not counted. ``params`` are those that the logits do not depend on.
    """
    gates = cell.mechanism.gates(logits)
    _, pullback = jax.vjp(
        lambda logits, gates, state, params: cell.complete(logits, gates, state, zoneout, params),
        dict(logits), gates, state, dict(params),
    )  # fmt: skip
    d_logits, d_gates, d_old, d_params = pullback(d_state)
    d_values = (d.value - d.complement for d in d_gates)
    return {**d_logits, **gates_vjp(cell.mechanism, logits, *d_values)}, d_old, d_params
