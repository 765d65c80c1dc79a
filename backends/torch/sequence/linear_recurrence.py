"""The recurrence h_t = a_t·h_{t−1} + w_t for all steps at once, in O(log T) array operations.

Pairs of steps are composed, the recurrence of half the length is solved, and the states between are
one step each.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gatecore.algebra import Gate
from gatecore.backends.common.linear_recurrence import (
    Steps,
    advance,
    advance_compensated,
    at,
    compose,
    forward_steps,
    steps_of,
)
from gatecore.backends.torch.sequence.call import Call

Product = Callable[[Tensor, Tensor], Tensor]  # of x and the transposed weights
_SUMMED = 1024  # rows of x whose part of the weights' gradient is one sum


def linear_recurrence(steps: Steps, reverse: bool = False) -> Tensor:
    """The states (time, ...) after all steps, where the initial state is part of the first w.

    With ``reverse`` time runs backward.
    """
    time, odd = len(steps.write), len(steps.write) % 2
    if time < 2:
        return steps.write
    if reverse:
        first, then = slice(1 + odd, None, 2), slice(odd, None, 2)
        rest = at(steps, slice(1 - odd, time - 1, 2))
    else:
        first, then = slice(0, time - 1, 2), slice(1, None, 2)
        rest = at(steps, slice(2, None, 2))
    halves = linear_recurrence(compose(at(steps, first), at(steps, then)), reverse)
    count = len(rest.write)
    between = advance(halves[len(halves) - count :] if reverse else halves[:count], rest)
    if not reverse:
        return _interleave(torch.cat([steps.write[:1], between]), halves)
    others = torch.cat([between, steps.write[-1:]])
    return _interleave(others, halves) if odd else _interleave(halves, others)


def _interleave(even: Tensor, odd: Tensor) -> Tensor:
    pairs = torch.stack([even[: len(odd)], odd], 1).flatten(0, 1)
    return pairs if len(even) == len(odd) else torch.cat([pairs, even[len(odd) :]])


def inputs(call: Call, part: slice, product: Product = torch.matmul) -> Any:
    """The logits by slot, the resets (time, batch, 1) and zoneout of a part of time."""
    cell, (zoneout,) = call.cell, call.zoneout or (None,)
    resets = None if call.resets is None else call.resets[part].unsqueeze(-1)
    zoneout = zoneout[part] if isinstance(zoneout, Tensor) else zoneout
    logits = cell.shift(call.params, product(call.x[part], call.params["weight_ih"].T))
    return cell.split(logits), resets, zoneout


def product_by_blocks(x: Tensor, weight: Tensor) -> Tensor:
    """x (time, batch, input) times weight (input, rows), whose gradient autograd sums by blocks.

    One sum over 100,000 rows, one after the other, would lose two digits.
    """
    rows = x.flatten(0, 1)
    if len(rows) <= 2 * _SUMMED:
        return x @ weight
    blocks = rows[: len(rows) // _SUMMED * _SUMMED].unflatten(0, (-1, _SUMMED))
    whole = torch.bmm(blocks, weight.expand(len(blocks), -1, -1)).flatten(0, 1)
    return torch.cat([whole, rows[len(whole) :] @ weight]).unflatten(0, x.shape[:2])


def states(call: Call, part: slice, start: Tensor, product: Product = torch.matmul) -> Tensor:
    """The states (time, batch, hidden) of a part of time, from ``start`` (batch, hidden)."""
    logits, resets, zoneout = inputs(call, part, product)
    return linear_recurrence(forward_steps(call.cell, logits, start, resets, zoneout))


def scan(call: Call) -> tuple[Tensor, Tensor]:
    """The states (time, batch, hidden) after all steps and the last one, by torch's scan."""
    logits, resets, zoneout = inputs(call, slice(None))
    gate, write, resets = steps_of(call.cell, logits, resets, zoneout)
    (start,), batch = call.states, call.x.shape[1]

    def step(carry: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        value, complement, write, *reset = now
        # the size names an open batch in the step, as AOTInductor needs
        taken = Steps(Gate(value, complement), write.expand(batch, -1), *reset)
        state, rest = advance_compensated((carry[0], carry[1]), taken)
        return [state, rest], [state.clone()]  # scan forbids results that are one tensor

    from torch._higher_order_ops.scan import scan as torch_scan

    xs = [*gate, write, *([] if resets is None else [resets])]
    (last, _), (history,) = torch_scan(step, [start, torch.zeros_like(start)], xs, dim=0)
    return history, last
