"""A recurrence h' = a·h + w whose gates do not depend on the state, for arrays of any framework.

Two steps compose to one of the same form. Gates carry their complements: there are no logarithms,
and candidates have any sign.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from gatecore._namespace import namespace
from gatecore.algebra import Gate, both, either, negate
from gatecore.backends.common.derivative import gates_vjp
from gatecore.cells import Cell

Array = Any


class Steps(NamedTuple):
    """Steps that zero the state where ``resets`` (time, batch, 1) is true, then take a·h + w.

    The gate a has the value 0 there.
    """

    gate: Gate
    write: Array
    resets: Array | None = None


def advance(state: Array, steps: Steps) -> Array:
    """The states after these steps."""
    return steps.write + steps.gate.value * _cleared(state, steps.resets)


def advance_compensated(carry: tuple[Array, Array], step: Steps) -> tuple[Array, Array]:
    """The state after one step and what its rounding took from it, from those before (Kahan 1965).

    The roundings of thousands of steps do not add up. Below a gate of ½ the next steps forget them.
    """
    state, rest = carry
    change = step.write - step.gate.complement * state + rest
    total = state + change
    long, where = step.gate.value >= 0.5, namespace(state).where
    rest = change - (total - state)
    return where(long, total, advance(state, step)), where(long, rest, rest * 0)


def compose(first: Steps, then: Steps) -> Steps:
    """The steps that are ``first`` and ``then`` one after the other."""
    before = _reset(first.gate, then.resets)
    product = both(then.gate, before)
    # near 1 the rounding of equal gates adds up in products of their values, not in complements
    close = product.complement < 0.5
    value = namespace(close).where(close, 1 - product.complement, product.value)
    resets = None if first.resets is None else first.resets | then.resets
    return Steps(Gate(value, product.complement), advance(first.write, then), resets)


def at(steps: Steps, index: slice) -> Steps:
    """Some of the steps."""
    sides = Gate(steps.gate.value[index], steps.gate.complement[index])
    return Steps(sides, steps.write[index], None if steps.resets is None else steps.resets[index])


def steps_of(cell: Cell, logits: Mapping[str, Array], resets: Array | None,
             zoneout: Any = None) -> Steps:  # fmt: skip
    """The steps from the logits (time, batch, width) by slot."""
    forget, input = _gates(cell, logits, zoneout)
    return Steps(_reset(forget, resets), input.value * _candidate(cell, logits), resets)


def forward_steps(cell: Cell, logits: Mapping[str, Array], start: Array, resets: Array | None,
                  zoneout: Any = None) -> Steps:  # fmt: skip
    """The same with the initial state ``start`` (batch, hidden) in the first w."""
    steps = steps_of(cell, logits, resets, zoneout)
    first = advance(start[None], at(steps, slice(0, 1)))
    return steps._replace(write=namespace(first).concat([first, steps.write[1:]]))


def backward_steps(cell: Cell, logits: Mapping[str, Array], d_output: Array, d_state: Array,
                   resets: Array | None, zoneout: Any = None) -> tuple[Steps, Array]:  # fmt: skip
    """The steps of λ_t = d_t + a_{t+1}·λ_{t+1}, in reversed time, and the first gate a_0."""
    gate = _reset(_gates(cell, logits, zoneout)[0], resets)
    xp = namespace(gate.value)
    write = xp.concat([d_output[:-1], (d_output[-1] + d_state)[None]])
    # the last gate, here the first, is not used
    later = Gate(*(xp.concat([side[1:], side[:1]]) for side in gate))
    later_resets = None if resets is None else xp.concat([resets[1:], resets[:1]])
    return Steps(later, write, later_resets), gate.value[0]


def logits_vjp(cell: Cell, logits: Mapping[str, Array], before: Array, d_hidden: Array,
               zoneout: Any = None) -> Array:  # fmt: skip
    """The packed cotangents (time, batch, rows) of the logits, from λ = ``d_hidden``.

    ``before`` are the states before the steps, 0 where they were reset.
    """
    u, input = _candidate(cell, logits), _gates(cell, logits, zoneout)[1]
    d_new = d_hidden if zoneout is None else d_hidden * (1 - zoneout)  # of what zoneout may replace
    d_candidate = d_hidden * input.value
    if cell.candidate == "tanh":
        d_candidate = d_candidate * ((1 - u) * (1 + u))
    tied = cell.mechanism.ties_gates(cell.core)
    d_gates = (d_new * (before - u),) if tied else (d_new * before, d_new * u)
    slots = {"candidate": d_candidate, **gates_vjp(cell.mechanism, logits, *d_gates)}
    return namespace(u).concat([slots[name] for name, _ in cell.slots], axis=-1)


def _gates(cell: Cell, logits: Mapping[str, Array], zoneout: Any) -> tuple[Gate, Gate]:
    """The effective gates; a state that zoneout keeps with probability z has the gate z OR f."""
    forget, input = cell.mechanism.gates(logits)
    if zoneout is None:
        return forget, input
    kept = Gate(zoneout, 1 - zoneout)
    return either(kept, forget), both(negate(kept), input)


def _candidate(cell: Cell, logits: Mapping[str, Array]) -> Array:
    u = logits["candidate"]
    return namespace(u).tanh(u) if cell.candidate == "tanh" else u


def _reset(gate: Gate, resets: Array | None) -> Gate:
    """The gate with value 0 where ``resets`` is true."""
    if resets is None:
        return gate
    xp, complement = namespace(resets), gate.complement
    set_ = xp.where(resets, xp.ones_like(complement), complement)
    return Gate(_cleared(gate.value, resets), set_)


def _cleared(state: Array, resets: Array | None) -> Array:
    """0 where ``resets`` is true: a product with a gate of 0 would keep NaN."""
    xp = namespace(state)
    return state if resets is None else xp.where(resets, xp.zeros_like(state), state)
