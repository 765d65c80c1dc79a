"""The derivative of a mechanism's gates, for arrays of any framework.

JAX and torch differentiate σ(x) as σ(1 − σ) and so lose the complement where a gate remembers
longest. The derivatives here are those of ``gatecore.vjp``.
"""

from collections.abc import Mapping
from typing import Any

from gatecore.algebra import negate, spread
from gatecore.mechanisms import REFINE_SLOTS, Mechanism
from gatecore.vjp import cumax_vjp, master_vjp, refine_vjp, sigmoid_vjp

Array = Any


def gates_vjp(mechanism: Mechanism, logits: Mapping[str, Array], d_forget: Array,
              d_input: Array | None = None) -> dict[str, Array]:  # fmt: skip
    """Cotangents of the gates' logits, from those of the values of the two effective gates.

    Without ``d_input`` the input gate is tied, and ``d_forget`` is the cotangent through both.
    """
    gates = mechanism.activate(logits)
    d_gates: dict[str, Array] = {}
    forget, input = d_forget, d_input
    if mechanism.auxiliary == "master":
        big_f, big_i = (spread(gates[name], mechanism.downsize) for name in mechanism.main_slots)
        inner = gates["input"] if "input" in gates else negate(gates["forget"])
        cotangents = master_vjp(big_f, big_i, gates["forget"], inner, forget, input)
        *d_masters, forget, input = cotangents
        for name, d in zip(mechanism.main_slots, d_masters, strict=True):  # sums over their units
            d_gates[name] = d.reshape(*d.shape[:-1], -1, mechanism.downsize).sum(-1)
    if "input" in gates:
        d_gates["input"] = input
    elif input is not None:  # it is tied: 1 − the forget gate
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
