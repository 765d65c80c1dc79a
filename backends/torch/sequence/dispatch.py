"""Which way a sequence is computed, and whether a requested way can be taken.

"native"    the sequence operation on a CPU by gatecore's C++ library, in float32
"reference" the same by the explicit driver, in float32 and float64
"fused"     the sequence operation on CUDA with gatecore's kernels: needs CuPy, runs eagerly
"graph"     the sequence operation on CUDA: captured graphs of torch's own operations
"plain"     step by step, differentiable by torch: everything is supported
"scan"      torch's scan operation: traced with the number of steps left open
"""

import torch
from torch import Tensor
from torch.autograd import forward_ad

from gatecore import _checks
from gatecore.backends.torch.sequence import cupy_kernels, native
from gatecore.cells import Cell

PATHS = ("native", "reference", "fused", "graph", "plain", "scan")
REQUESTS = ("auto", *PATHS)
# in order of preference
_DEVICES = {"native": "cpu", "reference": "cpu", "fused": "cuda", "graph": "cuda"}
_OPERATION_DTYPES = (torch.float32, torch.float64)


def checked(request: str) -> str:
    """``request`` if it is the name of a path or "auto"."""
    return _checks.choice("impl", request, REQUESTS)


def choose(request: str, x: Tensor, cell: Cell, projected: bool) -> str:
    """The path for this cell and an input of this shape, device and dtype.

    Raises
    ------
    ValueError
        A path was asked for that can't be taken, with the reason.
    """
    if request == "auto":
        return _automatic(x, cell, projected)
    if request in _DEVICES and (reason := _obstacle(request, x, cell, projected)):
        raise ValueError(f"impl={request!r} can't be taken: {reason}; use impl='auto' or 'plain'")
    return request


def _automatic(x: Tensor, cell: Cell, projected: bool) -> str:
    if torch.compiler.is_exporting():
        return "scan"
    for path in _DEVICES:
        if _obstacle(path, x, cell, projected) is None:
            return path
    return "plain"


def _obstacle(path: str, x: Tensor, cell: Cell, projected: bool) -> str | None:
    if x.device.type != _DEVICES[path]:
        return f"it needs tensors on {_DEVICES[path]}, the input is on {x.device.type}"
    if x.dtype not in _OPERATION_DTYPES:
        return f"it computes in float32 or float64, not {x.dtype}"
    if projected:
        return "it has no projection of the hidden state (proj_size)"
    if torch.compiler.is_compiling():
        return "torch.compile is tracing" if path == "fused" else None
    if torch._C._functorch.maybe_current_level() is not None:
        return "a transformation of torch.func is active"
    if forward_ad._current_level >= 0:
        return "forward-mode differentiation is active"
    if path == "native":
        return native.obstacle(x.dtype)
    return cupy_kernels.reason(cell, x) if path == "fused" else None
