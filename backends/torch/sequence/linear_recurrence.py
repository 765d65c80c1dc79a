"""The recurrence h_t = a_t·h_{t−1} + w_t for all steps at once, in O(log T) array operations.

Pairs of steps are composed, the recurrence of half the length is solved, and the states between are
one step each.
"""

from typing import Any

import torch
from torch import Tensor

from gatecore.backends.common.linear_recurrence import Steps, advance, at, compose, forward_steps
from gatecore.backends.torch.sequence.call import Call


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


def inputs(call: Call, part: slice) -> tuple[dict[str, Tensor], Tensor | None, Any]:
    """The logits by slot, the resets (time, batch, 1) and zoneout of a part of time."""
    cell, (zoneout,) = call.cell, call.zoneout or (None,)
    resets = None if call.resets is None else call.resets[part].unsqueeze(-1)
    zoneout = zoneout[part] if isinstance(zoneout, Tensor) else zoneout
    return cell.split(cell.project(call.params, call.x[part])), resets, zoneout


def states(call: Call, part: slice, start: Tensor) -> Tensor:
    """The states (time, batch, hidden) of a part of time, from ``start`` (batch, hidden)."""
    logits, resets, zoneout = inputs(call, part)
    return linear_recurrence(forward_steps(call.cell, logits, start, resets, zoneout))
