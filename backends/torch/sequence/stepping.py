"""A sequence step by step through ``gatecore.cells``, differentiable by torch to any order.

This is the path for double backward, forward-mode derivatives, ``torch.func`` and, by torch's scan
operation, for export with time left open.
"""

from collections.abc import Mapping
from typing import Any

import array_api_compat.torch  # noqa: F401  the cells' namespace: it must be there when traced
import torch
from torch import Tensor

from gatecore.cells import Cell
from gatecore.cells import zoneout as keep

States = tuple[Tensor, ...]


def loop(
    cell: Cell,
    params: Mapping[str, Tensor],
    x: Tensor,
    states: States,
    resets: Tensor | None,
    zoneout: tuple[Any, ...] | None,
) -> tuple[tuple[Tensor, ...], States]:
    """States after every step, each (time, batch, width), and the last ones.

    ``zoneout`` holds the amounts of (cell, hidden) for an LSTM, else of the hidden state: numbers,
    or tensors (time, batch, hidden). ``params`` may hold ``weight_hr``, a projection of the
    hidden state.
    """
    history = []
    for t, projected in enumerate(cell.project(params, x)):
        now = None if zoneout is None else tuple(_at(amount, t) for amount in zoneout)
        reset = None if resets is None else resets[t]
        states = advance(cell, params, projected, states, reset, now)
        history.append(states)
    return tuple(torch.stack(part) for part in zip(*history, strict=True)), states


def advance(
    cell: Cell,
    params: Mapping[str, Tensor],
    projected: Tensor,
    states: States,
    reset: Tensor | None,
    zoneout: tuple[Any, ...] | None,
) -> States:
    """One step: from states to states."""
    if reset is not None:
        states = tuple(s.masked_fill(reset.unsqueeze(-1), 0) for s in states)
    if "weight_hr" in params:
        return _projected(cell, params, projected, states, zoneout)
    return cell.advance(params, projected, states, zoneout)


def _projected(
    cell: Cell, params: Mapping[str, Tensor], projected: Tensor, states: States, zoneout: Any
) -> States:
    """An LSTM whose hidden state is W_hr (o tanh c): zoneout keeps old projected values."""
    hidden, memory = cell.advance(params, projected, states)
    new = (hidden @ params["weight_hr"].T, memory)
    if zoneout is None:
        return new
    kept = reversed(zoneout)  # of (hidden, cell), as the states
    return tuple(keep(old, now, d) for old, now, d in zip(states, new, kept, strict=True))


def scan(
    cell: Cell,
    params: Mapping[str, Tensor],
    x: Tensor,
    states: States,
    resets: Tensor | None,
    zoneout: tuple[Any, ...] | None,
) -> tuple[tuple[Tensor, ...], States]:
    """The same by torch's scan, which leaves the number of steps open when it is traced."""
    drawn = [k for k, amount in enumerate(zoneout or ()) if isinstance(amount, Tensor)]
    xs = [cell.project(params, x)]
    xs += [] if resets is None else [resets]
    xs += [zoneout[k] for k in drawn] if zoneout else []

    def step(states: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        reset = None if resets is None else now[1]
        amounts: list[Any] = list(zoneout or ())
        for k, amount in zip(drawn, now[len(now) - len(drawn) :], strict=True):
            amounts[k] = amount
        new = advance(cell, params, now[0], tuple(states), reset, tuple(amounts) or None)
        return list(new), [s.clone() for s in new]  # scan forbids results that are one tensor

    from torch._higher_order_ops.scan import scan as torch_scan

    last, history = torch_scan(step, list(states), xs, dim=0)
    return tuple(history), tuple(last)


def _at(amount: Any, t: int) -> Any:
    return amount[t] if isinstance(amount, Tensor) else amount
