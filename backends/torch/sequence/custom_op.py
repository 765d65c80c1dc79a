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
from torch.utils.flop_counter import register_flop_formula

from gatecore.backends.common.signature import signature
from gatecore.backends.torch.sequence import dispatch, stepping
from gatecore.backends.torch.sequence.call import Call, active, cell_of
from gatecore.backends.torch.sequence.implementation import active_transform

Values = dict[str, Any]  # an operator's arguments by name
Gradients = list[Tensor | None]
STATES = ("hidden", "cell")
_PARAMETERS = ("weight_ih", "weight_hh", "bias", "bias_n")
# the operators' arguments; masks take the place of zoneout probabilities
_CALL = (
    "str signature, Tensor x, Tensor weight_ih, Tensor? weight_hh, Tensor bias, Tensor? bias_n, "
    "Tensor hidden, Tensor? cell, Tensor? resets, Tensor? cell_mask, Tensor? hidden_mask, "
    "float cell_zoneout, float hidden_zoneout, bool return_cells, str impl"
)
_FORWARD = f"{_CALL}, bool save_for_backward"
_BACKWARD = (f"{_CALL}, Tensor[] saved, Tensor? d_output, Tensor? d_output_cell, Tensor? d_hidden, "
             "Tensor? d_cell, bool wrt_x")  # fmt: skip
FORWARD, BACKWARD = (
    tuple(field.split()[1] for field in schema.split(", ")) for schema in (_FORWARD, _BACKWARD)
)


def by_name(names: tuple[str, ...], arguments: tuple[Any, ...]) -> Values:
    """An operator's arguments by name."""
    return dict(zip(names, arguments, strict=True))


def in_order(names: tuple[str, ...], values: Values) -> tuple[Any, ...]:
    """An operator's arguments, or their gradients, in its order; None for those without."""
    return tuple(map(values.get, names))


def pack(call: Call, impl: str) -> Values:
    """The operators' common arguments by name, of a complete call."""
    values: Values = {
        "signature": signature(call.cell.kind, call.cell.mechanism), "x": call.x, **call.params,
        **dict(zip(STATES, call.states, strict=False)), "resets": call.resets,
        "return_cells": call.return_cells, "impl": impl,
    }  # fmt: skip
    zoneout = (0.0, 0.0, *(call.zoneout or ()))[-2:]
    for state, amount in zip(("cell", "hidden"), zoneout, strict=True):
        mask = isinstance(amount, Tensor)
        values[f"{state}_mask"] = amount if mask else None
        values[f"{state}_zoneout"] = 0.0 if mask else float(amount)
    return values


def unpack(values: Values) -> Call:
    """The call of an operator's arguments: the inverse of :func:`pack`."""
    x, hidden = values["x"], values["hidden"]
    cell = cell_of(values["signature"], int(x.shape[2]), int(hidden.shape[1]))
    zoneout = tuple(
        values[f"{state}_zoneout"] if (mask := values[f"{state}_mask"]) is None else mask
        for state in ("cell", "hidden")[-len(cell.state_names) :]
    )
    params = {name: values[name] for name in _PARAMETERS if values[name] is not None}
    states = tuple(values[name] for name in STATES if values[name] is not None)
    rest = active(zoneout), values["return_cells"]
    return Call(cell, x, params, states, values["resets"], *rest)


def needs_stepping(gradients: Iterable[Tensor | None]) -> bool:
    """Whether a backward pass shall be differentiable itself, or its cotangents are batched."""
    batched = torch._C._functorch.is_legacy_batchedtensor  # by is_grads_batched
    transformed = torch.is_grad_enabled() or active_transform() is not None
    return transformed or any(d is not None and batched(d) for d in gradients)


def run(call: Call, impl: str) -> list[Tensor]:
    """Outputs and last states of a complete call, by the operator."""
    saves = call.requires_grad or torch._C._get_tracing_state() is not None  # differentiated later
    values = {**pack(call, impl), "save_for_backward": saves}
    return sequence(*in_order(FORWARD, values))[: call.num_results]


def run_backward(
    call: Call, impl: str, saved: list[Tensor], d_outputs: Gradients, d_states: Gradients,
    wrt_x: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Gradients of a complete call by name, by the operator or by stepping."""
    if needs_stepping([*d_outputs, *d_states]) or call.cell.layer_norm:
        gradients = stepping.PLAIN.backward(call, [], d_outputs, d_states, wrt_x)
        names = [*(["x"] if wrt_x else []), *call.params, *STATES]
        return dict(zip(names, gradients, strict=False))
    values = {**pack(call, impl), "saved": saved, "wrt_x": wrt_x}
    values |= zip(("d_output", "d_output_cell"), d_outputs, strict=False)
    values |= zip(("d_hidden", "d_cell"), d_states, strict=False)
    names = [n for n in ("x", *_PARAMETERS, *STATES) if values.get(n) is not None]
    return dict(zip(names, sequence_backward(*in_order(BACKWARD, values)), strict=True))


def _forward(*arguments: Any) -> list[Tensor]:
    values = by_name(FORWARD, arguments)
    implementation = dispatch.operator(values["impl"])
    return implementation.forward(unpack(values), values["save_for_backward"])


sequence = torch.library.custom_op(
    "gatecore::sequence", _forward, mutates_args=(), schema=f"({_FORWARD}) -> Tensor[]"
)


@sequence.register_fake
def _(*arguments: Any) -> list[Tensor]:
    values = by_name(FORWARD, arguments)
    call, new = unpack(values), values["x"].new_empty
    time, batch, _ = call.x.shape
    shapes: list[tuple[int, ...]] = [(time, batch, call.cell.hidden_size)] * call.num_outputs
    shapes += [(1, batch, call.cell.hidden_size)] * len(call.states)
    if values["save_for_backward"]:
        shapes += dispatch.operator(values["impl"]).saved_shapes(call)
    return [new(shape) for shape in shapes]


def _setup_forward(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    values = by_name(FORWARD, inputs)
    ctx.num_results = unpack(values).num_results
    saved = output[ctx.num_results :]
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    ctx.names, ctx.others = tuple(tensors), {k: v for k, v in values.items() if k not in tensors}
    ctx.mark_non_differentiable(*saved)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors.values(), *saved)


def _backward(ctx: Any, grads: Gradients) -> tuple[Any, ...]:
    tensors = dict(zip(ctx.names, ctx.saved_tensors, strict=False))
    values, saved = {**ctx.others, **tensors}, list(ctx.saved_tensors[len(tensors) :])
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
    implementation = dispatch.operator(values["impl"])
    gradients = implementation.backward(call, values["saved"], d_outputs, d_states, wrt_x)
    return gradients if wrt_x else [call.x.new_empty(0), *gradients]


sequence_backward = torch.library.custom_op(
    "gatecore::sequence_backward", _run_backward, mutates_args=(),
    schema=f"({_BACKWARD}) -> Tensor[]",
)  # fmt: skip


@sequence_backward.register_fake
def _(*arguments: Any) -> list[Tensor]:
    values = by_name(BACKWARD, arguments)
    x, *others = unpack(values).sources(wrt_x=True)
    first = x.new_empty(x.shape if values["wrt_x"] else 0)
    return [first, *(source.new_empty(source.shape) for source in others)]


@register_flop_formula([torch.ops.gatecore.sequence, torch.ops.gatecore.sequence_backward])
def _flops(signature: str, x: Any, weight_ih: Any, weight_hh: Any, *others: Any, **_: Any) -> int:
    """Of the matrix products alone, as torch counts; a product has two gradients."""
    (time, batch, inputs), rows = x, weight_ih[0]
    width = 0 if weight_hh is None else weight_hh[1]
    product = 2 * time * batch * rows
    if len(others) + 4 == len(FORWARD):
        return product * (inputs + width)
    return product * (inputs * (1 + others[-1]) + 2 * width)
