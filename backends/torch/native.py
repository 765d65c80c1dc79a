"""The sequence operation by the native library, on the tensors' own memory and torch's threads.

A short sequence takes less time than a few dozen views of arrays would: the library is given the
tensors' addresses.
"""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.explicit.arguments import zoneout_amounts
from gatecore.backends.kernels.cpu import layer, library
from gatecore.backends.torch.arguments import Arguments
from gatecore.backends.torch.memory import take
from gatecore.cells import Cell

_SINGLE = np.dtype(np.float32)


def obstacle(dtype: torch.dtype) -> str | None:
    """Why the library cannot run a sequence of this type; None if it can."""
    if dtype is not torch.float32:
        return f"it computes in float32, not {str(dtype).removeprefix('torch.')}"
    return library.missing()


def forward(given: Arguments, keep: bool) -> list[Tensor]:
    """Outputs and final states as in ``sequence``, then what backward reads."""
    time, batch, _ = given.x.shape
    shape, full = _shape(given), (time, batch, given.cell.hidden_size)
    gates = take((time if keep else 1, batch, shape.stride))
    states = [take((time + 1 if keep else 2, *full[1:])) for _ in range(_count(given))]
    outputs = [take(full) for _ in range(given.outputs)]
    scratch = take((shape.forward_scratch,))
    held: list[Any] = []
    call = _arguments(given, gates, states, held)
    size = 4 * batch * given.cell.hidden_size
    for k, all_steps in enumerate(states):
        if given.states is None:
            ctypes.memset(all_steps.data_ptr(), 0, size)
        else:
            first = _checked("state", given.states[k], full[1:]).contiguous()
            ctypes.memmove(all_steps.data_ptr(), first.data_ptr(), size)
    call.output = outputs[0].data_ptr()
    call.output_cell = outputs[1].data_ptr() if given.cells else None
    call.scratch, call.saves = scratch.data_ptr(), keep
    library.call("gatecore_run_forward", shape.struct, call)
    final = [torch.empty(full[1:]) for _ in states]
    offset = size * (time if keep else time % 2)
    for last, all_steps in zip(final, states, strict=True):
        ctypes.memmove(last.data_ptr(), all_steps.data_ptr() + offset, size)
    return [*outputs, *final, *((gates, *states) if keep else ())]


def backward(
    given: Arguments,
    saved: Sequence[Tensor],
    d_outputs: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
    wrt_x: bool,
) -> list[Tensor]:
    """Cotangents of x (empty unless wanted), the parameters and the states (if there are)."""
    gates, *states = saved
    time, batch, inputs = given.x.shape
    shape, full = _shape(given), (time, batch, given.cell.hidden_size)
    held: list[Any] = []
    forward = _arguments(given, gates, states, held)
    scratch = take((shape.backward_scratch[wrt_x],))
    d_x = take((time, batch, inputs) if wrt_x else (0,))
    d_params = {name: torch.empty(value.shape) for name, value in given.params.items()}
    call = library.BackwardStruct(
        forward=ctypes.pointer(forward),
        d_x=d_x.data_ptr() if wrt_x else None,
        scratch=scratch.data_ptr(),
        **{f"d_{name}": value.data_ptr() for name, value in d_params.items()},
    )
    running = []
    for field, d in zip(("d_hidden", "d_cell"), d_states, strict=False):
        if d is not None or given.states is not None:
            running.append(_running(d, full[1:]))
            setattr(call, field, running[-1].data_ptr())
    for field, d in zip(("d_output", "d_output_cell"), d_outputs, strict=False):
        if d is not None:
            held.append(_checked(field, d, full).contiguous())
            setattr(call, field, held[-1].data_ptr())
    library.call("gatecore_run_backward", shape.struct, call)
    return [d_x, *d_params.values(), *(running if given.states else ())]


def saved_shapes(given: Arguments) -> list[tuple[Any, ...]]:
    """Shapes of the saved tensors."""
    time, batch, _ = given.x.shape
    # sizes that torch has not fixed yet stay free: the stride does not depend on them
    stride = _shape_of(given.cell, 1, 1, 1).stride
    states = (time + 1, batch, given.cell.hidden_size)
    return [(time, batch, stride), *(states for _ in range(_count(given)))]


def _count(given: Arguments) -> int:
    return 2 if given.cell.core == "lstm" else 1


def _running(given: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """A cotangent that the library moves from the last state to the first."""
    if given is None:
        return torch.zeros(shape)
    return _checked("d_state", given, shape).clone(memory_format=torch.contiguous_format)


def _arguments(
    given: Arguments, gates: Tensor, states: list[Tensor], held: list[Any]
) -> library.ForwardStruct:
    """The forward call's arguments but for what it returns; ``held`` gets what they point to."""
    time, batch, inputs = given.x.shape
    cell, steps = given.cell, (time, batch)
    wanted = {
        "x": (time, batch, inputs), "weight_ih": (cell.rows, inputs),
        "weight_hh": (cell.rows, cell.hidden_size), "bias": (cell.rows,),
        "bias_n": (cell.hidden_size,),
    }  # fmt: skip
    call = library.ForwardStruct(gates=gates.data_ptr(), hidden=states[0].data_ptr(), saves=1)
    for name, value in (("x", given.x), *given.params.items()):
        held.append(_checked(name, value, wanted[name]).contiguous())
        setattr(call, name, held[-1].data_ptr())
    if len(states) == 2:
        call.cell = states[1].data_ptr()
    if given.resets is not None:
        held.append(_checked("resets", given.resets, steps, torch.bool).contiguous())
        call.resets = held[-1].data_ptr()
    if given.zoneout is not None:
        _put_amounts(call, given, held)
    return call


def _put_amounts(call: library.ForwardStruct, given: Arguments, held: list[Any]) -> None:
    assert given.zoneout is not None
    amounts = [a.detach().numpy() if isinstance(a, Tensor) else a for a in given.zoneout]
    pair = tuple(amounts) if len(amounts) == 2 else amounts[0]
    time, batch, _ = given.x.shape
    zoneout_amounts(given.cell, pair, (time, batch), _SINGLE)
    for name, amount in zip(("cell", "hidden")[-len(amounts) :], given.zoneout, strict=True):
        if isinstance(amount, Tensor):
            held.append(amount.contiguous())
            setattr(call, f"keep_{name}", held[-1].data_ptr())
        else:
            setattr(call, f"kept_{name}", amount)


def _checked(
    name: str, value: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """``value``, whose memory the library may read."""
    if value.shape == shape and value.dtype is dtype and value.is_cpu:
        return value
    raise ValueError(
        f"{name} must be {dtype} of shape {shape} on the CPU, got {value.dtype} of shape "
        f"{tuple(value.shape)} on {value.device}"
    )


def _shape(given: Arguments) -> layer.Shape:
    _share_threads()
    time, batch, _ = given.x.shape
    return _shape_of(given.cell, time, batch, torch.get_num_threads())


@functools.lru_cache(maxsize=256)
def _shape_of(cell: Cell, time: int, batch: int, threads: int) -> layer.Shape:
    sizes, chosen = (cell.input_size, cell.hidden_size), library.best_instruction_set()
    return layer.shape_of(cell.core, cell.mechanism, sizes, (time, batch), threads, chosen, "auto")


@functools.cache
def _share_threads() -> None:
    """Run on torch's own team, where it is one of OpenMP."""
    names = r"lib(gomp|iomp5|omp)[.-]"
    library.use_openmp_of(rf"/torch/.*{names}") or library.use_openmp_of(names)
