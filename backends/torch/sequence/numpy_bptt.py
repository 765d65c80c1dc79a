"""The sequence operation by the explicit driver, on the tensors' own memory.

On a CPU the driver computes with NumPy's views of the tensors; ``fused`` gives it another place.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.numpy.bptt import Engine, Layer
from gatecore.backends.torch.sequence.arguments import Arguments
from gatecore.backends.torch.sequence.matmul import engine
from gatecore.backends.torch.sequence.pooled_tensors import take as take_tensor
from gatecore.cells import Cell

DTYPES = {torch.float32: np.dtype("float32"), torch.float64: np.dtype("float64")}


class Place:
    """Where tensors and the driver's arrays share memory: here, the CPU's."""

    def engine(self, cell: Cell) -> Engine:
        """What computes with the arrays."""
        return engine(cell)

    def layer(self, saves: bool, cell: Cell, *arguments: Any) -> Any:
        """What runs one layer over one sequence; ``saves`` says whether a backward may follow."""
        return Layer(self.engine(cell), cell, *arguments)

    def array(self, value: Any) -> Any:
        """A tensor's memory as an array; other values as they are."""
        return value.detach().numpy() if isinstance(value, Tensor) else value

    def tensor(self, array: Any) -> Tensor:
        """An array's memory as a tensor."""
        return torch.from_numpy(array)

    def take(self, like: Tensor, *sizes: int) -> Tensor:
        """Memory that a backward pass will read, of the dtype of ``like``."""
        return take_tensor(like, *sizes)


def forward(given: Arguments, keep: bool, place: Place) -> list[Tensor]:
    """Outputs and final states as in ``sequence``, then what backward reads."""
    saved: list[Tensor] = []

    def take(width: int, steps: bool = True, extra: int = 0) -> Any:
        time, batch, _ = given.x.shape
        if not steps:
            return place.array(place.take(given.x, batch, width))
        saved.append(place.take(given.x, time + extra, batch, width))
        return place.array(saved[-1])

    layer = _layer(given, take, place, keep)
    x, states = place.array(given.x), _state(given, given.states, place)
    outputs, final = layer.forward(x, states, given.cells)
    histories = outputs if given.cells else (outputs,)
    last = [place.tensor(part).unsqueeze(0) for part in _parts(given, final)]
    return [*map(place.tensor, histories), *last, *(saved if keep else ())]


def backward(
    given: Arguments,
    saved: list[Tensor],
    d_outputs: list[Tensor | None],
    d_states: list[Tensor | None],
    wrt_x: bool,
    place: Place,
) -> list[Tensor]:
    """Cotangents of x (where wanted), the parameters and the states."""
    layer = _layer(given, _replay(given, saved, place), place)
    scratch = place.array(place.take(given.x, *layer.scratch_shape(wrt_x)))
    d_last = [None if d is None else d.squeeze(0) for d in d_states]
    d_state, d_output = _state(given, d_last, place), [place.array(d) for d in d_outputs]
    d_params, d_x, d_start = layer.backward(d_output, d_state, scratch, wrt_x)
    rest = [*(d_params[name] for name in given.params), *_parts(given, d_start)]
    return [place.tensor(g) for g in ([d_x, *rest] if wrt_x else rest)]


def shapes(given: Arguments, place: Place) -> list[tuple[Any, ...]]:
    """Shapes of the saved tensors, found on a layer of one step and one sequence."""
    widths: list[tuple[int, int]] = []

    def take(width: int, steps: bool = True, extra: int = 0) -> Any:
        if steps:
            widths.append((width, extra))
        return np.empty((1 + extra, 1, width) if steps else (1, width), np.float32)

    params = {k: np.zeros(tuple(map(int, v.shape)), "f4") for k, v in given.params.items()}
    kept = None if given.zoneout is None else (0.5,) * len(given.zoneout)
    amounts, steps = _amounts(given, kept), (1, 1)
    place.layer(True, given.cell, params, take, None, amounts, steps, np.dtype("f4"))
    time, batch, _ = given.x.shape
    return [(time + extra, batch, width) for width, extra in widths]


def _layer(given: Arguments, take: Any, place: Place, saves: bool = True) -> Any:
    time, batch, _ = given.x.shape
    params = {name: place.array(value) for name, value in given.params.items()}
    zoneout = None if given.zoneout is None else tuple(map(place.array, given.zoneout))
    amounts, resets = _amounts(given, zoneout), place.array(given.resets)
    steps, dtype = (time, batch), DTYPES[given.x.dtype]
    return place.layer(saves, given.cell, params, take, resets, amounts, steps, dtype)


def _replay(given: Arguments, saved: list[Tensor], place: Place) -> Any:
    """A ``take`` that hands out again what an equal layer filled."""
    again: Iterator[Tensor] = iter(saved)

    def take(width: int, steps: bool = True, extra: int = 0) -> Any:
        return place.array(next(again) if steps else place.take(given.x, given.x.shape[1], width))

    return take


def _amounts(given: Arguments, zoneout: tuple[Any, ...] | None) -> Any:
    return zoneout if zoneout is None or given.cell.core == "lstm" else zoneout[0]


def _state(given: Arguments, states: Any, place: Place) -> Any:
    arrays = tuple(map(place.array, states))
    return arrays if given.cell.core == "lstm" else arrays[0]


def _parts(given: Arguments, state: Any) -> tuple[Any, ...]:
    return state if given.cell.core == "lstm" else (state,)
