"""The recurrence h_t = a_t·h_{t−1} + w_t for all steps at once, in O(log T) array operations.

Two steps compose to one of the same form, so pairs are composed, the recurrence of half the length
is solved, and the states between are one step each. Gates carry their complements: no logarithms,
and candidates of any sign.
"""

from typing import Any

import torch
from torch import Tensor

from gatecore.algebra import Gate, both, either
from gatecore.backends.torch.sequence.call import Call
from gatecore.cells import Cell

Steps = tuple[Gate, Tensor, Tensor | None]  # a, w and resets


def linear_recurrence(gate: Gate, write: Tensor, resets: Tensor | None = None,
                      reverse: bool = False) -> Tensor:  # fmt: skip
    """The states (time, ...) after all steps; with ``reverse`` time runs backward.

    ``gate`` is a, ``write`` is w, both (time, ...), where the initial state is part of the first w.
    Where bool ``resets`` (time, batch, 1) is true the state before the step counts as 0, also if it
    is not finite; a must be 0 there.
    """
    time = len(write)
    if time < 2:
        return write
    steps, odd = (gate, write, resets), time % 2
    if reverse:
        first, then = slice(1 + odd, None, 2), slice(odd, None, 2)
        rest = slice(1 - odd, time - 1, 2)
    else:
        first, then = slice(0, time - 1, 2), slice(1, None, 2)
        rest = slice(2, None, 2)
    halves = linear_recurrence(*_compose(_at(steps, first), _at(steps, then)), reverse)
    left = _at(steps, rest)
    before = halves[len(halves) - len(left[1]) :] if reverse else halves[: len(left[1])]
    between = _compose((None, before, None), left)[1]
    if not reverse:
        return _interleave(torch.cat([write[:1], between]), halves)
    others = torch.cat([between, write[-1:]])
    return _interleave(others, halves) if odd else _interleave(halves, others)


def _at(steps: Steps, index: slice) -> Steps:
    gate, write, resets = steps
    sides = Gate(gate.value[index], gate.complement[index])
    return sides, write[index], None if resets is None else resets[index]


def _compose(first: Any, then: Steps) -> Steps:
    """The step that is ``first`` and ``then`` one after the other; ``first`` may lack its gate."""
    (gate, write, resets), (old, before, old_resets) = then, first
    if resets is not None:  # a product with a gate of 0 would keep NaN
        before = before.masked_fill(resets, 0)
    write = torch.addcmul(write, gate.value, before)
    if old is None:
        return then[0], write, None
    if resets is not None:
        old = Gate(old.value.masked_fill(resets, 0), old.complement.masked_fill(resets, 1))
        old_resets = resets | old_resets
    product = both(gate, old)
    # near 1 the rounding of equal gates adds up in products of their values, not in complements
    close = product.complement < 0.5
    value = torch.where(close, 1 - product.complement, product.value)
    return Gate(value, product.complement), write, old_resets


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    pairs = torch.stack([even[: len(odd)], odd], 1).flatten(0, 1)
    return pairs if len(even) == len(odd) else torch.cat([pairs, even[len(odd) :]])


def gates(cell: Cell, logits: dict[str, Tensor], zoneout: Any = None) -> tuple[Gate, Gate]:
    """The effective gates; a state that zoneout keeps with probability z has the gate z OR f."""
    forget, input = cell.mechanism.gates(logits)
    if zoneout is None:
        return forget, input
    kept = Gate(zoneout, 1 - zoneout)
    return either(kept, forget), both(Gate(kept.complement, kept.value), input)


def candidate(cell: Cell, logits: dict[str, Tensor]) -> Tensor:
    """The candidate of every step."""
    return logits["candidate"].tanh() if cell.candidate == "tanh" else logits["candidate"]


def reset_gate(gate: Gate, resets: Tensor | None) -> Gate:
    """The gate with value 0 where ``resets`` (time, batch, 1) is true."""
    if resets is None:
        return gate
    return Gate(gate.value.masked_fill(resets, 0), gate.complement.masked_fill(resets, 1))


def inputs(call: Call, part: slice) -> tuple[dict[str, Tensor], Tensor | None, Any]:
    """The logits by slot, the resets (time, batch, 1) and zoneout of a part of time."""
    cell, (zoneout,) = call.cell, call.zoneout or (None,)
    resets = None if call.resets is None else call.resets[part].unsqueeze(-1)
    zoneout = zoneout[part] if isinstance(zoneout, Tensor) else zoneout
    return cell.split(cell.project(call.params, call.x[part])), resets, zoneout


def states(call: Call, part: slice, start: Tensor) -> Tensor:
    """The states (time, batch, hidden) of a part of time, from ``start`` (batch, hidden)."""
    logits, resets, zoneout = inputs(call, part)
    forget, input = gates(call.cell, logits, zoneout)
    forget, write = reset_gate(forget, resets), input.value * candidate(call.cell, logits)
    start = start if resets is None else start.masked_fill(resets[0], 0)
    first = torch.addcmul(write[:1], forget.value[:1], start.unsqueeze(0))
    return linear_recurrence(forget, torch.cat([first, write[1:]]), resets)
