"""A layer over a sequence by the native library, on the tensors' memory and torch's threads.

The library gets the tensors' addresses: making array views takes longer than a short sequence.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.validation import check_zoneout
from gatecore.backends.native import library
from gatecore.backends.native.call import LayerCall, saved_shapes
from gatecore.backends.torch.sequence import implementation
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import DTYPES, Gradients, contiguous, resolved
from gatecore.backends.torch.sequence.pooled_tensors import empty
from gatecore.cells import Cell

_SINGLE = np.dtype(np.float32)


def library_unsupported(dtype: str) -> str | None:
    """``library.unsupported``, a constant of compiled code."""
    return library.unsupported(dtype)


# as torch.compiler.assume_constant_result does, which imports torch._dynamo: a second
library_unsupported._dynamo_marked_constant = True  # type: ignore[attr-defined]


class Native(implementation.OperatorImplementation):
    """The C++ library. It adds the biases, and starts from zeros where there are no states."""

    name, device = "native", "cpu"
    completes_calls = True

    def _unsupported(self, call: Call) -> str | None:
        return library_unsupported(DTYPES[call.x.dtype])

    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        x, width, layer = call.x, call.cell.hidden_size, _layer(call, save_for_backward)
        time, batch, _ = x.shape
        outputs = [empty(x, time, batch, width) for _ in range(call.num_outputs)]
        last = [x.new_empty(1, batch, width) for _ in call.cell.state_names]
        activations = empty(x, layer.saved_floats)
        states = [checked("state", state, (batch, width)) for state in call.states]
        fields = {
            **_fields(call, layer, activations), **_biases(call), **by_state("initial", states),
            **by_state("output", outputs), **by_state("final", last),
            "scratch": empty(x, layer.forward_scratch),
        }  # fmt: skip
        layer.run("gatecore_run_forward", **addresses(fields))
        return [*outputs, *last, *((activations,) if save_for_backward else ())]

    def backward(
        self, call: Call, saved: Sequence[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        time, batch, inputs = call.x.shape
        cell, layer, new = call.cell, _layer(call, True), call.x.new_empty
        full, last = (time, batch, cell.hidden_size), (1, batch, cell.hidden_size)
        d_x = {"d_x": empty(call.x, time, batch, inputs)} if wrt_x else {}
        d_params = {name: new(*shape) for name, shape in cell.parameter_shapes().items()}
        d_first = [new(*last) for _ in call.states]
        fields = {
            **_fields(call, layer, saved[0]), **({} if cell.recurrent else _biases(call)),
            **by_state("d_output", [checked("d_output", d, full) for d in d_outputs]),
            **by_state("d_final", [checked("d_state", d, last) for d in d_states]),
            **by_state("d_initial", d_first), **d_x,
            **{f"d_{name}": d for name, d in d_params.items()},
            "scratch": empty(call.x, layer.backward_scratch[wrt_x]),
        }  # fmt: skip
        layer.run("gatecore_run_backward", **addresses(fields))
        d_params["bias_hh"] = d_params["bias"]
        of_params = (d_params[name] for name in call.params)
        return [*d_x.values(), *of_params, *(d.squeeze(0) for d in d_first)]

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        # sizes that torch has not fixed yet stay free: the stride does not depend on them
        stride = layer_of(call.cell, 1, 1, 1, True).stride
        time, batch, _ = call.x.shape
        shapes = saved_shapes(call.cell, stride, time, batch)
        return [(sum(math.prod(shape) for shape in shapes.values()),)]


def addresses(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The addresses of tensors; addresses, probabilities and None as they are."""
    return {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in fields.items()}


def _fields(call: Call, layer: LayerCall, activations: Tensor) -> dict[str, Any]:
    """The arrays that both calls of the library read, except biases, and the saved buffers."""
    (time, batch, inputs), start = call.x.shape, activations.data_ptr()
    rows, width = call.cell.rows, call.cell.hidden_size
    fields = {"x": checked("x", call.x, (time, batch, inputs)),
              "weight_ih": checked("weight_ih", call.params["weight_ih"], (rows, inputs)),
              "weight_hh": checked("weight_hh", call.params.get("weight_hh"), (rows, width)),
              **{name: start + offset for name, offset in layer.saved_offsets.items()}}  # fmt: skip
    if call.resets is not None:
        fields["resets"] = checked("resets", call.resets, (time, batch), torch.bool)
    if call.zoneout is not None:
        masks = tuple(
            resolved("zoneout mask", z.detach()).contiguous() if isinstance(z, Tensor) else z
            for z in call.zoneout
        )
        arrays = tuple(z.numpy() if isinstance(z, Tensor) else z for z in masks)
        check_zoneout(call.cell, arrays, (time, batch), _SINGLE)
        fields |= zoneout_fields(masks)
    return fields


def _biases(call: Call) -> dict[str, Tensor]:
    params, rows = call.params, (call.cell.rows,)
    bias = checked("bias", params["bias"], rows)
    if "bias_hh" in params:
        bias = bias + checked("bias_hh", params["bias_hh"], rows)
    bias_n = checked("bias_n", params.get("bias_n"), (call.cell.hidden_size,))
    return {"bias": bias, "bias_n": bias_n}


def checked(name: str, value: Any, shape: tuple[int, ...],
             dtype: torch.dtype = torch.float32) -> Any:  # fmt: skip
    """``value`` as a tensor whose memory the library may read; None stays."""
    if value is None:
        return None
    if value.shape == shape and value.dtype is dtype and value.is_cpu:
        return contiguous(name, value)
    raise ValueError(f"{name} must be {dtype} of shape {shape} on the CPU, got {value.dtype} of "
                     f"shape {tuple(value.shape)} on {value.device}")  # fmt: skip


def _layer(call: Call, saves: bool) -> LayerCall:
    time, batch, _ = call.x.shape
    return layer_of(call.cell, time, batch, torch.get_num_threads(), saves)


@functools.lru_cache(maxsize=256)  # of positional arguments: those are looked up sooner
def layer_of(cell: Cell, time: int, batch: int, threads: int, saves: bool) -> LayerCall:
    """The library's call of these sizes, on torch's own threads."""
    _share_threads()
    return LayerCall(cell, time, batch, threads=threads, saves=saves)


@functools.cache
def _share_threads() -> None:
    """Run on torch's own threads, where they are OpenMP's."""
    names = r"lib(gomp|iomp5|omp)[.-]"
    library.use_openmp_of(rf"/torch/.*{names}") or library.use_openmp_of(names)
