"""Calls of torch's layers over a sequence, by the kernels and by stepping."""

import torch

from gatecore import mechanism
from gatecore.backends.torch.sequence import cuda_kernels
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.run import run
from gatecore.cells import CELLS


def case(core="lstm", name="UR", time=5, batch=2, dtype=torch.float64, variant="plain", hidden=6):
    """A call with gradients wanted, and random cotangents of its results."""
    gating = mechanism(name, downsize=2) if "M" in name else mechanism(name)
    cell, new = CELLS[core](3, hidden, gating), torch.randn
    x = new(time, batch, 3, dtype=dtype, requires_grad=True)
    params = {n: torch.tensor(p, dtype=dtype, requires_grad=True) for n, p in cell.init(0).items()}
    state = tuple(new(batch, hidden, dtype=dtype, requires_grad=True) for _ in cell.state_names)
    resets, zoneout = None, None
    if variant == "resets":
        resets = torch.rand(time, batch) < 0.4
        resets[0, 0] = True
    if variant == "masks":
        mask = (torch.rand(time, batch, hidden) < 0.5).to(dtype)
        zoneout = (mask, 1 - mask)[: len(state)]
    if variant == "probabilities":
        zoneout = (0.5, 0.05)[: len(state)]
    cells = variant == "cells" and core == "lstm"
    return Call(cell, x, params, state, resets, zoneout, cells)


def called(call, impl="auto"):
    """The result of a call."""
    cell, x, params, *rest = call
    return run(cell, params, x, *rest, impl=impl)


def results(call, impl="fused"):
    """Outputs, last states and the gradients of all sources."""
    got = called(call, impl=impl)
    assert got.impl == impl
    outputs = [*got.outputs, *got.states]
    weights = [torch.linspace(-1, 1, o.numel(), dtype=o.dtype).view(o.shape) for o in outputs]
    sources = [s for s in call.sources(True) if s.requires_grad]
    return [*outputs, *torch.autograd.grad(outputs, sources, weights)]


def agree(call, tolerance=1e-12, **options):
    for got, wanted in zip(results(call, **options), results(call, "plain"), strict=True):
        torch.testing.assert_close(got, wanted, rtol=tolerance, atol=tolerance)


def engine_of(index):
    return cuda_kernels.ENGINES._engines[index]


def warm(gpu):
    """The engine, after a call."""
    agree(case(time=2))
    agree(case(time=2, dtype=torch.float32), 1e-5)
    return engine_of(0)
