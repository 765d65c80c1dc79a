"""Matrix products of manual BPTT by torch, on NumPy's memory.

oneDNN packs the recurrent weights once for all time steps. The other large products of a sequence
use torch as well: two thread pools, NumPy's and torch's, would compete for the cores.
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
        linear, wrap = torch.ops.mkldnn._linear_pointwise.default, torch.from_numpy
        rows = wrap(np.ascontiguousarray(weights.T))
        packed = torch.ops.mkldnn._reorder_linear_weight(rows, batch)
        return lambda left: linear(wrap(left), packed, None, "none", [], "").numpy()


# weights from which packing is faster: on one core 1.4 times at 512 units, 2 times at 1024
_PACKED_FROM = 1 << 19
_NUMPY, _PACKED = Engine(np), TorchEngine(np)


def engine(cell: Cell) -> Engine:
    """The engine with the fastest products for a cell."""
    large = cell.rows * cell.hidden_size >= _PACKED_FROM
    return _PACKED if large and torch.backends.mkldnn.is_available() else _NUMPY
