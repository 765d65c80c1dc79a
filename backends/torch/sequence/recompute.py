"""Kernels of the sequence operation for any device: the plain path, run again for its gradient.

On CUDA both are captured as graphs, see ``graphs``. Nothing is saved between the two.
"""

import torch
from torch import Tensor

from gatecore.backends.torch.sequence.arguments import Arguments
from gatecore.backends.torch.sequence.stepping import loop


def forward(given: Arguments) -> list[Tensor]:
    """Outputs and final states, each in memory of its own."""
    with torch.no_grad():
        return [r.clone() for r in results(given)]


def results(given: Arguments) -> list[Tensor]:
    """What the operation returns, by the plain path."""
    history, last = loop(
        given.cell, given.params, given.x, given.states, given.resets, given.zoneout
    )
    return [*history[: given.outputs], *(part.unsqueeze(0) for part in last)]


def backward(
    given: Arguments, d_outputs: list[Tensor | None], d_states: list[Tensor | None], wrt_x: bool
) -> list[Tensor]:
    """Cotangents of x (where wanted), the parameters and the states."""
    with torch.enable_grad():
        x = given.x.detach().requires_grad_(wrt_x)
        params = {k: v.detach().requires_grad_() for k, v in given.params.items()}
        states = tuple(s.detach().requires_grad_() for s in given.states)
        fresh = Arguments(given.cell, x, params, states, given.resets, given.zoneout, given.cells)
        wanted = [*([x] if wrt_x else []), *params.values(), *states]
        gradients = pulled(results(fresh), [*d_outputs, *d_states], wanted)
    return [g.contiguous().clone() for g in gradients]


def pulled(
    results: list[Tensor], cotangents: list[Tensor | None], wanted: list[Tensor],
    create_graph: bool = False,
) -> list[Tensor]:  # fmt: skip
    """Cotangents of ``wanted``, zeros where nothing arrives."""
    pairs = [(r, c) for r, c in zip(results, cotangents, strict=True) if c is not None]
    if not pairs:
        return [torch.zeros_like(w) for w in wanted]
    gradients = torch.autograd.grad(
        [r for r, _ in pairs], wanted, [c for _, c in pairs], create_graph=create_graph,
        allow_unused=True,
    )  # fmt: skip
    return [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, gradients, strict=True)]
