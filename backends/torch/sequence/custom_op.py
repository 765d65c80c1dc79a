"""The operators ``gatecore::sequence``, a layer over a sequence, and its backward pass.

The first returns the hidden states of all steps, the cell states of all steps where they are asked
for, the last states, and the saved tensors; the last states have a leading axis of length 1, as
those of torch's layers. ``impl`` names the implementation that runs both. Where the gradients shall
have a derivative, or come in batches, stepping computes them: gradients of any order exist.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch.sequence import dispatch, stepping
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import active_transform
from gatecore.backends.torch.sequence.operator_fields import (
    BACKWARD,
    FORWARD,
    STATES,
    Values,
    by_name,
    differentiable,
    in_order,
    pack,
    schema,
    unpack,
)

Gradients = list[Tensor | None]


def needs_operator(x: Any) -> bool:
    """Whether torch traces, or a dispatch mode or a subclass of Tensor intercepts operators."""
    tracing = torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None
    return tracing or torch._C._len_torch_dispatch_stack() > 0 or type(x) is not Tensor


def needs_stepping(gradients: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass shall be differentiable itself, or its cotangents are batched."""
    batched = torch._C._functorch.is_legacy_batchedtensor  # by is_grads_batched
    transformed = torch.is_grad_enabled() or active_transform() is not None
    return transformed or any(d is not None and batched(d) for d in gradients)


def run(call: Call, impl: str) -> list[Tensor]:
    """Outputs and last states of a complete call, by the operator."""
    values = {**pack(call, impl), "save_for_backward": call.requires_grad}
    return sequence(*in_order(FORWARD, values))[: call.num_results]


def run_backward(
    call: Call, impl: str, saved: list[Tensor], d_outputs: Gradients, d_states: Gradients,
    wrt_x: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of a complete call by name, by the operator or by stepping."""
    if needs_stepping([*d_outputs, *d_states]):
        gradients = stepping.PLAIN.backward(call, [], d_outputs, d_states, wrt_x)
        names = [*(["x"] if wrt_x else []), *call.params, *STATES]
        return dict(zip(names, gradients, strict=False))
    values = {**pack(call, impl), "saved": saved, "wrt_x": wrt_x}
    values |= zip(("d_output", "d_output_cell"), d_outputs, strict=False)
    values |= zip(("d_hidden", "d_cell"), d_states, strict=False)
    gradients = sequence_backward(*in_order(BACKWARD, values))
    return dict(zip(differentiable(FORWARD, values), gradients, strict=True))


def _forward(*arguments: Any) -> list[Tensor]:
    values = by_name(FORWARD, arguments)
    implementation = dispatch.named(values["impl"])
    return implementation.forward(unpack(values), values["save_for_backward"])


sequence = torch.library.custom_op(
    "gatecore::sequence", _forward, mutates_args=(), schema=schema(FORWARD)
)


@sequence.register_fake
def _(*arguments: Any) -> list[Tensor]:
    values = by_name(FORWARD, arguments)
    call, new = unpack(values), values["x"].new_empty
    time, batch, _ = call.x.shape
    shapes: list[tuple[int, ...]] = [(time, batch, call.cell.hidden_size)] * call.num_outputs
    shapes += [(1, batch, call.cell.hidden_size)] * len(call.states)
    if values["save_for_backward"]:
        shapes += dispatch.named(values["impl"]).saved_shapes(call)
    return [new(shape) for shape in shapes]


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    values = by_name(FORWARD, inputs)
    ctx.num_results = unpack(values).num_results
    ctx.mark_non_differentiable(*output[ctx.num_results :])
    _save(ctx, values, output[ctx.num_results :])


def _backward(ctx: Any, grads: Gradients) -> tuple[Any, ...]:
    values, saved = _saved(ctx)
    call, wrt_x = unpack(values), ctx.needs_input_grad[1]
    d_outputs, d_states = grads[: call.num_outputs], grads[call.num_outputs : ctx.num_results]
    gradients: Values = run_backward(call, values["impl"], saved, d_outputs, d_states, wrt_x)
    if not wrt_x:
        gradients["x"] = None
    return in_order(FORWARD, gradients)


sequence.register_autograd(_backward, setup_context=_setup_forward)


def _run_backward(*arguments: Any) -> list[Tensor]:
    """Gradients of x (empty unless ``wrt_x``), the parameters and the initial states."""
    values = by_name(BACKWARD, arguments)
    call, wrt_x = unpack(values), values["wrt_x"]
    d_outputs = [values["d_output"], values["d_output_cell"]][: call.num_outputs]
    d_states = [values["d_hidden"], values["d_cell"]][: len(call.states)]
    implementation = dispatch.named(values["impl"])
    gradients = implementation.backward(call, values["saved"], d_outputs, d_states, wrt_x)
    return gradients if wrt_x else [call.x.new_empty(0), *gradients]


sequence_backward = torch.library.custom_op(
    "gatecore::sequence_backward", _run_backward, mutates_args=(), schema=schema(BACKWARD)
)


@sequence_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    values = by_name(BACKWARD, arguments)
    x, *others = unpack(values).sources(wrt_x=True)
    first = x.new_empty(x.shape if values["wrt_x"] else 0)
    return [first, *(source.new_empty(source.shape) for source in others)]


def _save(ctx: Any, values: Values, saved: list[Tensor]) -> None:
    """Keep an operator's arguments for its derivative, and its saved tensors."""
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    ctx.names, ctx.others = tuple(tensors), {k: v for k, v in values.items() if k not in tensors}
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors.values(), *saved)


def _saved(ctx: Any) -> tuple[Values, list[Tensor]]:
    """The arguments by name, and the saved tensors."""
    tensors = dict(zip(ctx.names, ctx.saved_tensors, strict=False))
    return {**ctx.others, **tensors}, list(ctx.saved_tensors[len(tensors) :])
