"""The backward pass of one step, with the derivatives of the gates by hand.

JAX differentiates σ(x) as σ(1 − σ) and so loses the complement where a gate remembers longest. The
gates' derivatives are those of ``gatecore.vjp``; JAX differentiates the rest of a step.
"""

from collections.abc import Mapping
from typing import Any

import jax

from gatecore.algebra import Gate, negate, spread
from gatecore.cells import Cell
from gatecore.mechanisms import REFINE_SLOTS, Mechanism
from gatecore.vjp import cumax_vjp, master_vjp, refine_vjp, sigmoid_vjp

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
    return {**d_logits, **gates_vjp(cell.mechanism, logits, *d_gates)}, d_old


def gates_vjp(mechanism: Mechanism, logits: Logits, d_forget: Gate,
              d_input: Gate) -> dict[str, Array]:  # fmt: skip
    """Cotangents of the gates' logits, from those of the two effective gates."""
    gates = mechanism.activate(logits)
    d_gates: dict[str, Array] = {}
    if mechanism.auxiliary == "master":
        big_f, big_i = (spread(gates[name], mechanism.downsize) for name in mechanism.main_slots)
        inner = gates["input"] if "input" in gates else negate(gates["forget"])
        cotangents = master_vjp(big_f, big_i, gates["forget"], inner, d_forget, d_input)
        *d_masters, forget, input = cotangents
        for name, d in zip(mechanism.main_slots, d_masters, strict=True):  # sums over their units
            d_gates[name] = d.reshape(*d.shape[:-1], -1, mechanism.downsize).sum(-1)
    else:
        forget, input = (d.value - d.complement for d in (d_forget, d_input))
    if "input" in gates:
        d_gates["input"] = input
    else:  # it is tied: 1 − the forget gate
        forget = forget - input
    d_gates["forget"] = forget
    for gate, slot in REFINE_SLOTS.items():
        if slot in gates:
            d_gates[gate], d_gates[slot] = refine_vjp(gates[gate], gates[slot], d_gates[gate])
    return {name: _to_logit(mechanism, name, logits[name], d) for name, d in d_gates.items()}


def _to_logit(mechanism: Mechanism, slot: str, logit: Array, d_gate: Array) -> Array:
    if slot not in mechanism.ordered_slots:
        return sigmoid_vjp(logit, d_gate)
    return cumax_vjp(logit, -d_gate if mechanism.negated(slot) else d_gate)
