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

from gatecore.backends.common.validation import zoneout_amounts
from gatecore.backends.native import layer, library
from gatecore.backends.torch.sequence.arguments import Arguments
from gatecore.backends.torch.sequence.pooled_tensors import take
from gatecore.cells import Cell

_SINGLE = np.dtype(np.float32)


def obstacle(dtype: torch.dtype) -> str | None:
    """Why the library cannot run a sequence of this type; None if it can."""
    if dtype is not torch.float32:
        return f"it computes in float32, not {str(dtype).removeprefix('torch.')}"
    return library.missing()


def forward(given: Arguments, keep: bool) -> list[Tensor]:
    """Outputs and final states as in ``sequence``, then the memory that backward reads."""
    time, batch, _ = given.x.shape
    width, shape, steps = given.cell.hidden_size, _shape(given), time if keep else 1
    outputs = [take(given.x, time, batch, width) for _ in range(given.outputs)]
    memory = take(given.x, _floats(given, shape, steps))
    scratch = take(given.x, shape.forward_scratch)
    held: list[Tensor] = []
    call = _arguments(given, shape, memory, steps, held)
    _put_biases(call, given, held)
    states, size = _states(given, shape, memory, steps), 4 * batch * width
    for k, first in enumerate(states):
        if not given.states:
            ctypes.memset(first, 0, size)
        else:
            start = _checked("state", given.states[k], (batch, width)).contiguous()
            ctypes.memmove(first, start.data_ptr(), size)
    call.output = outputs[0].data_ptr()
    call.output_cell = outputs[1].data_ptr() if given.cells else None
    call.scratch, call.saves = scratch.data_ptr(), keep
    library.call("gatecore_run_forward", shape.struct, call)
    final = [given.x.new_empty(1, batch, width) for _ in states]
    offset = size * (time if keep else time % 2)
    for last, first in zip(final, states, strict=True):
        ctypes.memmove(last.data_ptr(), first + offset, size)
    return [*outputs, *final, *((memory,) if keep else ())]


def backward(
    given: Arguments,
    memory: Tensor,
    d_outputs: Sequence[Tensor | None],
    d_states: Sequence[Tensor | None],
    wrt_x: bool,
) -> list[Tensor]:
    """Cotangents of x (where wanted), the parameters and the states (if there are)."""
    time, batch, inputs = given.x.shape
    cell, shape, new = given.cell, _shape(given), given.x.new_empty
    rows, width = cell.rows, cell.hidden_size
    held: list[Tensor] = []
    forward = _arguments(given, shape, memory, time, held)
    scratch = take(given.x, shape.backward_scratch[wrt_x])
    d_x = [take(given.x, time, batch, inputs)] if wrt_x else []
    d_bias = new(rows)
    d_params = {"weight_ih": new(rows, inputs), "weight_hh": new(rows, width), "bias": d_bias}
    if "bias_n" in given.params:
        d_params["bias_n"] = new(width)
    call = library.BackwardStruct(
        ctypes.pointer(forward),
        *_read(d_outputs, (time, batch, width), held),
        None,
        None,
        d_x[0].data_ptr() if wrt_x else None,
        *[d.data_ptr() for d in d_params.values()],
    )
    call.scratch = scratch.data_ptr()
    moved = _moved(call, given, d_states)
    library.call("gatecore_run_backward", shape.struct, call)
    d_params["bias_hh"] = d_bias
    d_first = [d.squeeze(0) for d in moved] if given.states else []
    return [*d_x, *(d_params[name] for name in given.params), *d_first]


def _read(
    d_outputs: Sequence[Tensor | None], shape: tuple[int, ...], held: list[Tensor]
) -> list[int | None]:
    """The addresses of the outputs' cotangents, hidden and cell states'."""
    found: list[int | None] = []
    for d in d_outputs:
        if d is not None:
            held.append(_checked("d_output", d, shape).contiguous())
        found.append(None if d is None else held[-1].data_ptr())
    return found if len(found) == 2 else [*found, None]


def _moved(
    call: library.BackwardStruct, given: Arguments, d_states: Sequence[Tensor | None]
) -> list[Tensor]:
    """The states' cotangents, which the library moves from the last step to the first."""
    shape, moved = (1, given.x.shape[1], given.cell.hidden_size), []
    for field, d in zip(("d_hidden", "d_cell"), d_states, strict=False):
        if d is None and not given.states:
            continue  # nothing comes, and nobody asks
        if d is None:
            moved.append(given.x.new_zeros(shape))
        else:
            d = _checked("d_state", d, shape)
            moved.append(d.clone(memory_format=torch.contiguous_format))
        setattr(call, field, moved[-1].data_ptr())
    return moved


def saved_shapes(given: Arguments) -> list[tuple[Any, ...]]:
    """Shapes of the saved tensors."""
    # sizes that torch has not fixed yet stay free: the stride does not depend on them
    return [(_floats(given, _shape_of(given.cell, 1, 1, 1), given.x.shape[0]),)]


def _floats(given: Arguments, shape: layer.Shape, steps: Any) -> Any:
    """Of the memory of so many steps: their gates, then each state before, between and after."""
    states = given.state_count * (steps + 1) * given.cell.hidden_size
    return given.x.shape[1] * (steps * shape.stride + states)


def _states(given: Arguments, shape: layer.Shape, memory: Tensor, steps: int) -> list[int]:
    """Addresses of the states in the memory of so many steps."""
    batch, width = given.x.shape[1], given.cell.hidden_size
    first = memory.data_ptr() + 4 * steps * batch * shape.stride
    return [first + 4 * k * (steps + 1) * batch * width for k in range(given.state_count)]


def _arguments(
    given: Arguments, shape: layer.Shape, memory: Tensor, steps: int, held: list[Tensor]
) -> library.ForwardStruct:
    """The forward call's arguments but for biases, which backward does not read, and results.

    ``held`` gets what they point to.
    """
    time, batch, inputs = given.x.shape
    rows, width = given.cell.rows, given.cell.hidden_size
    held += [
        _checked("x", given.x, (time, batch, inputs)).contiguous(),
        _checked("weight_ih", given.params["weight_ih"], (rows, inputs)).contiguous(),
        _checked("weight_hh", given.params["weight_hh"], (rows, width)).contiguous(),
    ]
    call = library.ForwardStruct(*[tensor.data_ptr() for tensor in held])
    call.gates, call.saves = memory.data_ptr(), 1
    for field, state in zip(("hidden", "cell"), _states(given, shape, memory, steps), strict=False):
        setattr(call, field, state)
    if given.resets is not None:
        held.append(_checked("resets", given.resets, (time, batch), torch.bool).contiguous())
        call.resets = held[-1].data_ptr()
    if given.zoneout is not None:
        _put_amounts(call, given, held)
    return call


def _put_biases(call: library.ForwardStruct, given: Arguments, held: list[Tensor]) -> None:
    params, rows = given.params, (given.cell.rows,)
    bias, more, bias_n = params["bias"], params.get("bias_hh"), params.get("bias_n")
    if more is not None:
        bias = _checked("bias", bias, rows) + _checked("bias_hh", more, rows)
    held.append(_checked("bias", bias, rows).contiguous())
    call.bias = held[-1].data_ptr()
    if bias_n is not None:
        held.append(_checked("bias_n", bias_n, (given.cell.hidden_size,)).contiguous())
        call.bias_n = held[-1].data_ptr()


def _put_amounts(call: library.ForwardStruct, given: Arguments, held: list[Tensor]) -> None:
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
