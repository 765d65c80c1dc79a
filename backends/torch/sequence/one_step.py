"""One step of a cell, which a Python loop calls: by the native library, or by torch's operations.

Beside a step of one sequence, whose products take a few microseconds, every call of torch counts:
the library gets the parameters as the module has them, and adds the two biases itself.
"""

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from gatecore.backends.common.fields import by_state, zoneout_fields
from gatecore.backends.common.layout import layout_of
from gatecore.backends.native.call import LayerCall
from gatecore.backends.torch.sequence import custom_op, native, stepping
from gatecore.backends.torch.sequence.call import Call, zero_states
from gatecore.backends.torch.sequence.implementation import (
    active_transform,
    check_memory,
    contiguous,
    needs_operator,
)
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.cells import Cell

States = tuple[Tensor, ...]
_LOCAL = threading.local()
_LARGEST = 1 << 20  # floats of scratch memory that is kept


class Step(NamedTuple):
    """One step; all tensors have one dtype."""

    cell: Cell
    x: Tensor  # (batch, input)
    weights: Mapping[str, Tensor]  # as torch names them
    states: States  # (h,) or (h, c), each (batch, hidden); empty for zeros
    zoneout: tuple[Any, ...] | None  # probabilities or masks (batch, hidden), in the order of Call
    two_biases: bool
    core_params: Callable[..., dict[str, Tensor]]  # the cell's parameters from the weights

    def params(self) -> dict[str, Tensor]:
        """The cell's parameters."""
        return self.core_params(self.cell, self.weights, self.two_biases, self.x.dtype)

    def tensors(self) -> list[Tensor]:
        """x, the weights, the states."""
        return [self.x, *self.weights.values(), *self.states]

    def with_tensors(self, tensors: list[Tensor]) -> "Step":
        """The same step of other tensors, in the order of :meth:`tensors`."""
        count = 1 + len(self.weights)
        weights = dict(zip(self.weights, tensors[1:count], strict=True))
        return self._replace(x=tensors[0], weights=weights, states=tuple(tensors[count:]))

    def call(self) -> Call:
        """The step as a sequence of length 1."""
        zoneout = self.zoneout and tuple(
            z.unsqueeze(0) if isinstance(z, Tensor) else z for z in self.zoneout
        )
        x, params = self.x.unsqueeze(0), self.params()
        return Call(self.cell, x, params, self.states, None, zoneout).complete()


def run(step: Step) -> tuple[States, str]:
    """The next states, each (batch, hidden), and the name of the implementation that ran."""
    observed = needs_operator(step.x)  # torch traces or profiles, or a mode intercepts operators
    if _unsupported(step) or (observed and _tracing()):
        check_memory(input=(step.x,), hx=step.states)
        return plain(step), "plain"
    if observed:
        results = custom_op.run(step.call(), "native")
        return tuple(state.squeeze(0) for state in results[1:]), "native"
    if torch.is_grad_enabled():
        tensors = step.tensors()
        for tensor in tensors:
            if tensor.requires_grad:
                return _NativeStep.apply(step, *tensors), "native"
    return _forward(step, False)[0], "native"


def plain(step: Step) -> States:
    """The next states by torch's operations, differentiable to any order."""
    cell, x = step.cell, step.x
    with no_autocast(x.device.type):
        params = step.params()
        projected = cell.project(params, x)
        states = step.states or zero_states(cell, projected.unsqueeze(0))
        return stepping.advance(cell, params, projected, states, None, step.zoneout)


def _unsupported(step: Step) -> bool:
    """Whether the library cannot compute the step."""
    x = step.x
    if x.dtype is not torch.float32 or not x.is_cpu or x.layout is not torch.strided:
        return True
    for weight in step.weights.values():
        if type(weight) is not Parameter and type(weight) is not Tensor:
            return True
    # of a MinGRU, packing weights takes longer than torch's few operations
    unsupported = not step.cell.recurrent or step.cell.layer_norm or active_transform()
    return bool(unsupported or native.library_unsupported("float32"))


def _tracing() -> bool:
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


class _NativeStep(torch.autograd.Function):
    """A step by the library, as an autograd function of its tensors."""

    @staticmethod
    def forward(ctx: Any, step: Step, *tensors: Tensor) -> Any:
        states, saved = _forward(step, True)
        cell, _, weights, _, *rest = step
        ctx.cell, ctx.names, ctx.rest = cell, tuple(weights), rest  # tensors are saved, to be freed
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors, saved)
        return states

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        (x, *tensors, saved), needed = ctx.saved_tensors, ctx.needs_input_grad[1:]
        weights = dict(zip(ctx.names, tensors, strict=False))
        step = Step(ctx.cell, x, weights, tuple(tensors[len(weights) :]), *ctx.rest)
        if custom_op.needs_stepping(grads) or needs_operator(step.x):
            return None, *_plain_backward(step, grads, needed)
        return None, *_backward(step, saved, grads, needed[0])


def _plain_backward(step: Step, grads: Any, needed: Any) -> list[Tensor | None]:
    """The gradients of the step's tensors, differentiable where gradients are enabled."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = [t.view_as(t) for t in step.tensors()]
        pairs = zip(plain(step.with_tensors(tensors)), grads, strict=True)
        results, cotangents = zip(*(pair for pair in pairs if pair[1] is not None), strict=True)
        gradients = iter(torch.autograd.grad(
            results, [t for t, one in zip(tensors, needed, strict=True) if one], cotangents,
            create_graph=create_graph, materialize_grads=True,
        ))  # fmt: skip
    return [next(gradients) if one else None for one in needed]


class _Sizes(NamedTuple):
    """The sizes of a step: what it takes from the library, and what it is given."""

    layer: LayerCall
    kept: int  # floats that the forward pass saves for the backward pass
    offsets: tuple[tuple[str, int], ...]  # bytes before each part of them
    weights: dict[str, tuple[str, tuple[int, ...]]]  # the field and the shape of each of torch's
    candidate: int  # the first row of the candidate's biases, of which a GRU has a second one
    states: tuple[tuple[str, str], ...]  # fields of each state before and after the step
    scratch: int  # floats, of the forward pass


@functools.lru_cache(maxsize=256)
def _sizes(cell: Cell, batch: int, threads: int, saves: bool) -> _Sizes:
    layer = native.layer_of(cell, 1, batch, threads, saves)
    rows, width = cell.rows, cell.hidden_size
    weights = {"weight_ih": ("weight_ih", (rows, cell.input_size)), "bias_ih": ("bias", (rows,)),
               "weight_hh": ("weight_hh", (rows, width)),
               "bias_hh": ("bias_hh", (rows,))}  # fmt: skip
    names = custom_op.STATES[: len(cell.state_names)]
    states = tuple((f"initial_{name}", f"final_{name}") for name in names)
    return _Sizes(layer, layer.saved_floats, tuple(layer.saved_offsets.items()), weights,
                  int(layout_of(cell).input_rows[0]), states, layer.forward_scratch)  # fmt: skip


def _forward(step: Step, save_for_backward: bool) -> tuple[States, Tensor | None]:
    """The next states, and the buffer that the backward pass reads."""
    cell, x, states = step.cell, step.x, step.states
    batch, width = x.shape[0], cell.hidden_size
    sizes = _sizes(cell, batch, torch.get_num_threads(), save_for_backward)
    alive, fields = _read(step, sizes)
    last = []
    for k, (before, after) in enumerate(sizes.states):
        if states:
            alive.append(state := contiguous("hx", states[k]))
            fields[before] = state.data_ptr()
        last.append(state := x.new_empty(batch, width))
        fields[after] = state.data_ptr()
    if save_for_backward:
        saved, scratch = x.new_empty(sizes.kept), _scratch(sizes.scratch)
        start, fields["scratch"] = saved.data_ptr(), scratch.data_ptr()
    else:
        saved, scratch = None, _scratch(sizes.kept + sizes.scratch)
        start = scratch.data_ptr()
        fields["scratch"] = start + 4 * sizes.kept
    for name, offset in sizes.offsets:
        fields[name] = start + offset
    sizes.layer.run("gatecore_run_forward", **fields)
    return tuple(last), saved


def _backward(step: Step, saved: Tensor, grads: Any, wrt_x: bool) -> list[Tensor | None]:
    """The gradients of the step's tensors."""
    cell, x, weights, new = step.cell, step.x, step.weights, step.x.new_empty
    batch, width = x.shape[0], cell.hidden_size
    sizes = _sizes(cell, batch, torch.get_num_threads(), True)
    alive, fields = _read(step, sizes)
    alive += (d_final := [native.checked("d_state", d, (batch, width)) for d in grads])
    start = saved.data_ptr()
    for name, offset in sizes.offsets:
        fields[name] = start + offset
    d_x = new(batch, cell.input_size) if wrt_x else None
    d_params = {f"d_{name}": new(size) for name, size in cell.parameter_shapes().items()}
    d_initial = [new(batch, width) for _ in step.states]
    rest = {**d_params, "d_x": d_x, **by_state("d_final", d_final),
            **by_state("d_initial", d_initial)}  # fmt: skip
    rest["scratch"] = _scratch(sizes.layer.backward_scratch[wrt_x])
    sizes.layer.run("gatecore_run_backward", **fields, **native.addresses(rest))
    d_params["d_bias_ih"] = d_params["d_bias_hh"] = d_bias = d_params["d_bias"]
    if "bias_hh" in weights and "d_bias_n" in d_params:
        d_params["d_bias_hh"] = d_bias.clone() if step.two_biases else torch.zeros_like(d_bias)
        rows = slice(sizes.candidate, sizes.candidate + width)
        d_params["d_bias_hh"][rows] = d_params["d_bias_n"]
    return [d_x, *(d_params[f"d_{name}"] for name in weights), *d_initial]


def _read(step: Step, sizes: _Sizes) -> tuple[list[Tensor], dict[str, Any]]:
    """The tensors that both calls of the library read, which must stay, and the fields for them."""
    x, checked = contiguous("input", step.x), native.checked
    tensors, fields = [x], {"x": x.data_ptr()}
    for name, weight in step.weights.items():
        field, shape = sizes.weights[name]
        tensors.append(weight := checked(name, weight, shape))
        fields[field] = weight.data_ptr()
    if "bias_hh" in fields and step.cell.separate_candidate:
        fields["bias_n"] = fields["bias_hh"] + 4 * sizes.candidate
        if not step.two_biases:
            del fields["bias_hh"]
    if step.zoneout is not None:
        masks = zoneout_fields(step.zoneout)
        tensors += [z for z in masks.values() if isinstance(z, Tensor)]
        fields |= native.addresses(masks)
    return tensors, fields


def _scratch(floats: int) -> Tensor:
    """Memory of this thread, which the next call uses again."""
    buffer = getattr(_LOCAL, "buffer", None)
    if buffer is None or buffer.numel() < floats:
        buffer = torch.empty(floats, dtype=torch.float32, device="cpu")
        if floats <= _LARGEST:
            _LOCAL.buffer = buffer
    return buffer
