"""Matrix products of manual BPTT by torch, on NumPy's memory.

The recurrent weights are multiplied at every time step: oneDNN packs them once. The large products
of such a sequence go through torch as well, because the thread pools of NumPy's and torch's
libraries, both waiting busily, would take the cores from each other.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from gatecore.backends.numpy.bptt import Engine
from gatecore.cells import Cell


class TorchEngine(Engine):
    """NumPy arrays, torch's products."""

    def matmul(self, left: Any, right: Any, out: Any = None) -> Any:
        """The product of two matrices."""
        out = np.empty((left.shape[0], right.shape[1]), left.dtype) if out is None else out
        a, b, c = (torch.from_numpy(m) for m in (left, right, out))
        torch.mm(a, b, out=c) if c.is_contiguous() else c.copy_(torch.mm(a, b))
        return out

    def product(self, weights: Any, batch: int) -> Callable[[Any], Any]:
        """A function that multiplies (batch, n) by packed weights (n, m)."""
        if weights.dtype != np.float32 or not batch:
            return super().product(weights, batch)
        rows = torch.from_numpy(np.ascontiguousarray(weights.T))
        packed = torch.ops.mkldnn._reorder_linear_weight(rows, batch)
        linear = torch.ops.mkldnn._linear_pointwise.default
        wrap = torch.from_numpy
        return lambda left: linear(wrap(left), packed, None, "none", [], "").numpy()


# From here on packing wins: measured on one core, 1.4 times at 512 units, 2 at 1024, less than the
# call costs at 256.
_PACKED_FROM = 1 << 19
_NUMPY, _PACKED = Engine(np), TorchEngine(np)


def engine(cell: Cell) -> Engine:
    """The engine with the fastest products for a cell; one thread pool runs a whole sequence."""
    large = cell.rows * cell.hidden_size >= _PACKED_FROM
    return _PACKED if large and torch.backends.mkldnn.is_available() else _NUMPY
