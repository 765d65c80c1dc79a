"""The gates of a sequence that has been run."""

import torch
from torch import Tensor

from gatecore.algebra import Gate
from gatecore.cells import Cell


def forget_gates(
    cell: Cell,
    params: dict[str, Tensor],
    x: Tensor,
    start: Tensor,
    hidden: Tensor,
    resets: Tensor | None = None,
) -> Gate:
    """Effective forget gates (time, batch, hidden), all at once from the hidden states."""
    before = torch.cat([start.unsqueeze(0), hidden[:-1]])
    if resets is not None:
        before = before.masked_fill(resets.unsqueeze(-1), 0)
    logits = cell.project(params, x) + before @ params["weight_hh"].T
    return cell.mechanism.gates(cell.split(logits))[0]
