"""The operators ``gatecore::sequence``, a layer over a sequence, and its backward pass.

The first returns the hidden states of all steps, the cell states of all steps where they are asked
for, the last states, and the saved tensors; the last states have a leading axis of length 1, as
those of torch's layers. The second has a derivative itself, by stepping: gradients of any order
exist. ``impl`` names the implementation that runs both.
"""

from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch.sequence import dispatch, stepping
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.operator_fields import (
    BACKWARD,
    FORWARD,
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


def run(call: Call, impl: str) -> list[Tensor]:
    """Outputs and last states of a complete call, by the operator."""
    values = {**pack(call, impl), "save_for_backward": call.requires_grad}
    return sequence(*in_order(FORWARD, values))[: call.num_results]


def run_backward(
    call: Call, impl: str, saved: list[Tensor], d_outputs: Gradients, d_states: Gradients,
    wrt_x: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of a complete call by name, by the operator."""
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


def _cotangents(call: Call, values: Values) -> tuple[Gradients, Gradients]:
    d_outputs = [values["d_output"], values["d_output_cell"]][: call.num_outputs]
    return d_outputs, [values["d_hidden"], values["d_cell"]][: len(call.states)]


def _run_backward(*arguments: Any) -> list[Tensor]:
    """Gradients of x (empty unless ``wrt_x``), the parameters and the initial states."""
    values = by_name(BACKWARD, arguments)
    call, wrt_x = unpack(values), values["wrt_x"]
    implementation = dispatch.named(values["impl"])
    gradients = implementation.backward(call, values["saved"], *_cotangents(call, values), wrt_x)
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


def _setup_backward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    values = by_name(BACKWARD, inputs)
    ctx.num_saved = len(values.pop("saved"))
    _save(ctx, values, [])


def _double_backward(ctx: Any, grads: Gradients) -> tuple[Any, ...]:
    """The derivative of the backward pass, by stepping."""
    create_graph, (values, _) = torch.is_grad_enabled(), _saved(ctx)
    with torch.enable_grad():
        values = {name: _leaf(value, create_graph) for name, value in values.items()}
        call, wrt_x = unpack(values), values["wrt_x"]
        d_outputs, d_states = _cotangents(call, values)
        first = stepping.vjp(
            stepping.PLAIN.forward(call), [*d_outputs, *d_states], call.sources(wrt_x),
            create_graph=True,
        )  # fmt: skip
        names = differentiable(BACKWARD, values)
        sources = [values[name] for name in names]
        second = stepping.vjp(first, grads if wrt_x else grads[1:], sources, create_graph)
    gradients: Values = dict(zip(names, second, strict=True))
    return in_order(BACKWARD, {**gradients, "saved": [None] * ctx.num_saved})


sequence_backward.register_autograd(_double_backward, setup_context=_setup_backward)


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


def _leaf(value: Any, create_graph: bool) -> Any:
    """A tensor that requires a gradient, with its own history where that is wanted."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return value
    if create_graph and value.requires_grad:
        return value.view_as(value)
    return value.detach().requires_grad_()
