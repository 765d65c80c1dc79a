"""The forget gates of a sequence, computed again from its hidden states."""

import torch
from torch import Tensor

from gatecore.algebra import Gate
from gatecore.backends.torch.nn.parameters import slot_rows
from gatecore.cells import Cell

# the effective forget gate depends on these slots alone
_SLOTS = ("forget", "refine", "master_forget", "master_input")


def forget_gates(
    cell: Cell,
    params: dict[str, Tensor],
    x: Tensor,
    start: Tensor,
    hidden: Tensor,
    resets: Tensor | None = None,
) -> Gate:
    """Effective forget gates (time, batch, hidden) of all steps.

    From the inputs ``x``, the hidden states, and the hidden state before the first step.
    """
    before = torch.cat([start.unsqueeze(0), hidden[:-1]])
    if resets is not None:
        before = before.masked_fill(resets.unsqueeze(-1), 0)
    return step_gates(cell, params, x, before)


def step_gates(cell: Cell, params: dict[str, Tensor], x: Tensor, before: Tensor) -> Gate:
    """Effective forget gates (..., hidden) of inputs and the hidden states before them."""
    rows = {name: part for name, part in slot_rows(cell).items() if name in _SLOTS}
    weight_ih, weight_hh, bias = (
        torch.cat([params[name][part] for part in rows.values()])
        for name in ("weight_ih", "weight_hh", "bias")
    )
    logits = x @ weight_ih.T + bias + before @ weight_hh.T
    widths = [part.stop - part.start for part in rows.values()]
    return cell.mechanism.gates(dict(zip(rows, logits.split(widths, -1), strict=True)))[0]
