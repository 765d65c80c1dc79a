"""A layer over a sequence by the NumPy backend's manual BPTT, on the tensors' own memory."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.numpy import bptt
from gatecore.backends.torch.sequence import implementation, pooled_tensors
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import DTYPES, Gradients, resolved
from gatecore.backends.torch.sequence.matmul import engine
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.cells import Cell


class ArrayAdapter:
    """Tensors as arrays and arrays as tensors, in shared memory: here, a CPU's."""

    layer: Any = bptt.Layer  # or a class with its interface
    device = "cpu"

    def engine(self, cell: Cell) -> bptt.Engine:
        """The engine of the arrays."""
        return engine(cell)

    def array(self, value: Any, name: str = "an argument") -> Any:
        """A tensor's memory as an array; other values as they are. Errors call it ``name``."""
        if not isinstance(value, Tensor):
            return value
        if value.device.type != self.device:
            raise ValueError(f"{name} must be on the {self.device.upper()}, got {value.device}")
        return self._view(resolved(name, value.detach()))

    def _view(self, tensor: Tensor) -> Any:
        return tensor.numpy()

    def tensor(self, array: Any) -> Tensor:
        """An array's memory as a tensor."""
        return torch.from_numpy(array)

    def empty(self, like: Tensor, *sizes: int) -> Tensor:
        """An uninitialised tensor of the dtype of ``like``."""
        return pooled_tensors.empty(like, *sizes)


class NumpyBptt(implementation.OperatorImplementation):
    """Manual BPTT in NumPy."""

    name, device = "reference", "cpu"
    normalizes = True

    @contextlib.contextmanager
    def adapter(self, call: Call) -> Iterator[ArrayAdapter]:
        """The adapter for the call's tensors; products are not rounded while it is in use."""
        with no_autocast(self.device):
            yield ArrayAdapter()

    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        saved: list[Tensor] = []
        time, batch, _ = call.x.shape
        with self.adapter(call) as arrays:

            def acquire(width: int, steps: bool = True, extra: int = 0) -> Any:
                if not steps:
                    return arrays.array(arrays.empty(call.x, batch, width))
                saved.append(arrays.empty(call.x, time + extra, batch, width))
                return arrays.array(saved[-1])

            layer = _layer(call, acquire, arrays)
            initial = [arrays.array(part, "state") for part in call.states]
            outputs, last = layer.forward(arrays.array(call.x, "x"), initial)
            # the last states are not views, to be changed in place
            results = [*map(arrays.tensor, (*outputs, *(part[None] for part in last)))]
            return results + saved if save_for_backward else results

    def backward(
        self, call: Call, saved: Sequence[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        remaining, batch = iter(saved), call.x.shape[1]
        with self.adapter(call) as arrays:

            def acquire(width: int, steps: bool = True, extra: int = 0) -> Any:
                """The arrays that the forward pass filled, in the same order."""
                tensor = next(remaining) if steps else arrays.empty(call.x, batch, width)
                return arrays.array(tensor)

            layer = _layer(call, acquire, arrays)
            scratch = arrays.array(arrays.empty(call.x, *layer.scratch_shape(wrt_x)))
            d_last = (None if d is None else arrays.array(d.squeeze(0)) for d in d_states)
            d_params, d_x, d_initial = layer.backward(
                [*map(arrays.array, d_outputs)], [*d_last], scratch, wrt_x
            )
            gradients = [*(d_params[name] for name in call.params), *d_initial]
            return [arrays.tensor(g) for g in ([d_x, *gradients] if wrt_x else gradients)]

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        widths: list[tuple[int, int]] = []  # recorded from a layer of one step and one sequence

        def acquire(width: int, steps: bool = True, extra: int = 0) -> Any:
            if steps:
                widths.append((width, extra))
            return np.empty((1 + extra, 1, width) if steps else (1, width), np.float32)

        zeros = {name: np.zeros(s, "f4") for name, s in call.cell.parameter_shapes().items()}
        zoneout = call.zoneout and (0.5,) * len(call.zoneout)
        one = bptt.Call(bptt.Engine(np), call.cell, zeros, (1, 1), np.dtype("f4"), zoneout=zoneout)
        bptt.Layer(one, acquire)
        time, batch, _ = call.x.shape
        return [(time + extra, batch, width) for width, extra in widths]


def _layer(call: Call, acquire: Any, arrays: ArrayAdapter) -> bptt.Layer:
    params = {name: arrays.array(value, name) for name, value in call.params.items()}
    zoneout = call.zoneout and tuple(arrays.array(z, "zoneout mask") for z in call.zoneout)
    dtype = np.dtype(DTYPES[call.x.dtype])
    (time, batch, _), resets = call.x.shape, arrays.array(call.resets, "resets")
    arguments = params, (time, batch), dtype, resets, zoneout, call.return_cells
    return arrays.layer(bptt.Call(arrays.engine(call.cell), call.cell, *arguments), acquire)
