"""A layer over a sequence by the native library, on the tensors' own memory and torch's threads.

The library gets the tensors' addresses: over a short sequence it takes less time than making views
as arrays would.
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
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import Gradients, OperatorImplementation
from gatecore.backends.torch.sequence.pooled_tensors import empty
from gatecore.cells import Cell

_SINGLE = np.dtype(np.float32)


@torch.compiler.assume_constant_result
def _library_unsupported() -> str | None:
    return library.missing()


class Native(OperatorImplementation):
    """The C++ library. It adds the biases, and starts from zeros where there are no states."""

    name, device = "native", "cpu"
    completes_calls = True

    def _unsupported(self, call: Call) -> str | None:
        if call.x.dtype is not torch.float32:
            return f"it computes in float32, not {str(call.x.dtype).removeprefix('torch.')}"
        return _library_unsupported()

    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        time, batch, _ = call.x.shape
        width, shape = call.cell.hidden_size, _shape(call)
        steps = time if save_for_backward else 1
        outputs = [empty(call.x, time, batch, width) for _ in range(call.num_outputs)]
        activations = empty(call.x, _floats(call, shape, steps))
        scratch = empty(call.x, shape.forward_scratch)
        alive: list[Tensor] = []
        struct = _struct(call, shape, activations, steps, alive)
        _put_biases(struct, call, alive)
        states, size = _states(call, shape, activations, steps), 4 * batch * width
        for k, first in enumerate(states):
            if not call.states:
                ctypes.memset(first, 0, size)
            else:
                start = _checked("state", call.states[k], (batch, width)).contiguous()
                ctypes.memmove(first, start.data_ptr(), size)
        struct.output = outputs[0].data_ptr()
        struct.output_cell = outputs[1].data_ptr() if call.return_cells else None
        struct.scratch, struct.saves = scratch.data_ptr(), save_for_backward
        library.call("gatecore_run_forward", shape.struct, struct)
        last = [call.x.new_empty(1, batch, width) for _ in states]
        offset = size * (time if save_for_backward else time % 2)
        for result, first in zip(last, states, strict=True):
            ctypes.memmove(result.data_ptr(), first + offset, size)
        return [*outputs, *last, *((activations,) if save_for_backward else ())]

    def backward(
        self,
        call: Call,
        saved: Sequence[Tensor],
        d_outputs: Gradients,
        d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:
        time, batch, inputs = call.x.shape
        cell, shape, new = call.cell, _shape(call), call.x.new_empty
        rows, width = cell.rows, cell.hidden_size
        alive: list[Tensor] = []
        forward = _struct(call, shape, saved[0], time, alive)
        scratch = empty(call.x, shape.backward_scratch[wrt_x])
        d_x = [empty(call.x, time, batch, inputs)] if wrt_x else []
        d_bias = new(rows)
        d_params = {"weight_ih": new(rows, inputs), "weight_hh": new(rows, width), "bias": d_bias}
        if "bias_n" in call.params:
            d_params["bias_n"] = new(width)
        struct = library.BackwardStruct(
            ctypes.pointer(forward),
            *_addresses(d_outputs, (time, batch, width), alive),
            None,
            None,
            d_x[0].data_ptr() if wrt_x else None,
            *[d.data_ptr() for d in d_params.values()],
        )
        struct.scratch = scratch.data_ptr()
        running = _put_d_states(struct, call, d_states)
        library.call("gatecore_run_backward", shape.struct, struct)
        d_params["bias_hh"] = d_bias
        d_first = [d.squeeze(0) for d in running] if call.states else []
        return [*d_x, *(d_params[name] for name in call.params), *d_first]

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        # sizes that torch has not fixed yet stay free: the stride does not depend on them
        return [(_floats(call, _shape_of(call.cell, 1, 1, 1), call.x.shape[0]),)]


def _addresses(
    d_outputs: Gradients, shape: tuple[int, ...], alive: list[Tensor]
) -> list[int | None]:
    """The addresses of the outputs' cotangents, hidden and cell states'."""
    addresses: list[int | None] = []
    for d in d_outputs:
        if d is not None:
            alive.append(_checked("d_output", d, shape).contiguous())
        addresses.append(None if d is None else alive[-1].data_ptr())
    return addresses if len(addresses) == 2 else [*addresses, None]


def _put_d_states(struct: library.BackwardStruct, call: Call, d_states: Gradients) -> list[Tensor]:
    """The states' cotangents, which the library moves from the last step to the first."""
    shape, running = (1, call.x.shape[1], call.cell.hidden_size), []
    for field, d in zip(("d_hidden", "d_cell"), d_states, strict=False):
        if d is None and not call.states:
            continue  # nothing comes, and nobody asks
        if d is None:
            running.append(call.x.new_zeros(shape))
        else:
            d = _checked("d_state", d, shape)
            running.append(d.clone(memory_format=torch.contiguous_format))
        setattr(struct, field, running[-1].data_ptr())
    return running


def _floats(call: Call, shape: layer.Shape, steps: Any) -> Any:
    """Of the memory of so many steps: their gates, then each state before, between and after."""
    states = len(call.cell.state_names) * (steps + 1) * call.cell.hidden_size
    return call.x.shape[1] * (steps * shape.stride + states)


def _states(call: Call, shape: layer.Shape, memory: Tensor, steps: int) -> list[int]:
    """Addresses of the states in the memory of so many steps."""
    batch, width = call.x.shape[1], call.cell.hidden_size
    first = memory.data_ptr() + 4 * steps * batch * shape.stride
    return [first + 4 * k * (steps + 1) * batch * width for k in range(len(call.cell.state_names))]


def _struct(
    call: Call, shape: layer.Shape, memory: Tensor, steps: int, alive: list[Tensor]
) -> library.ForwardStruct:
    """The forward call's arguments but for biases, which backward does not read, and results.

    ``alive`` gets what they point to.
    """
    time, batch, inputs = call.x.shape
    rows, width = call.cell.rows, call.cell.hidden_size
    alive += [
        _checked("x", call.x, (time, batch, inputs)).contiguous(),
        _checked("weight_ih", call.params["weight_ih"], (rows, inputs)).contiguous(),
        _checked("weight_hh", call.params["weight_hh"], (rows, width)).contiguous(),
    ]
    struct = library.ForwardStruct(*[tensor.data_ptr() for tensor in alive])
    struct.gates, struct.saves = memory.data_ptr(), 1
    for field, state in zip(("hidden", "cell"), _states(call, shape, memory, steps), strict=False):
        setattr(struct, field, state)
    if call.resets is not None:
        alive.append(_checked("resets", call.resets, (time, batch), torch.bool).contiguous())
        struct.resets = alive[-1].data_ptr()
    if call.zoneout is not None:
        _put_zoneout(struct, call, alive)
    return struct


def _put_biases(struct: library.ForwardStruct, call: Call, alive: list[Tensor]) -> None:
    params, rows = call.params, (call.cell.rows,)
    bias, more, bias_n = params["bias"], params.get("bias_hh"), params.get("bias_n")
    if more is not None:
        bias = _checked("bias", bias, rows) + _checked("bias_hh", more, rows)
    alive.append(_checked("bias", bias, rows).contiguous())
    struct.bias = alive[-1].data_ptr()
    if bias_n is not None:
        alive.append(_checked("bias_n", bias_n, (call.cell.hidden_size,)).contiguous())
        struct.bias_n = alive[-1].data_ptr()


def _put_zoneout(struct: library.ForwardStruct, call: Call, alive: list[Tensor]) -> None:
    assert call.zoneout is not None
    amounts = [a.detach().numpy() if isinstance(a, Tensor) else a for a in call.zoneout]
    pair = tuple(amounts) if len(amounts) == 2 else amounts[0]
    time, batch, _ = call.x.shape
    zoneout_amounts(call.cell, pair, (time, batch), _SINGLE)
    for name, amount in zip(("cell", "hidden")[-len(amounts) :], call.zoneout, strict=True):
        if isinstance(amount, Tensor):
            alive.append(amount.contiguous())
            setattr(struct, f"keep_{name}", alive[-1].data_ptr())
        else:
            setattr(struct, f"kept_{name}", amount)


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


def _shape(call: Call) -> layer.Shape:
    _share_threads()
    time, batch, _ = call.x.shape
    return _shape_of(call.cell, time, batch, torch.get_num_threads())


@functools.lru_cache(maxsize=256)
def _shape_of(cell: Cell, time: int, batch: int, threads: int) -> layer.Shape:
    sizes, chosen = (cell.input_size, cell.hidden_size), library.best_instruction_set()
    return layer.shape_of(cell.core, cell.mechanism, sizes, (time, batch), threads, chosen, "auto")


@functools.cache
def _share_threads() -> None:
    """Run on torch's own team, where it is one of OpenMP."""
    names = r"lib(gomp|iomp5|omp)[.-]"
    library.use_openmp_of(rf"/torch/.*{names}") or library.use_openmp_of(names)
