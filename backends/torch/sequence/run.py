"""One layer over a sequence by the implementation that is chosen: what the layers call."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gatecore.backends.torch.sequence import custom_op, dispatch
from gatecore.backends.torch.sequence.call import Call, active
from gatecore.backends.torch.sequence.implementation import check_memory, needs_operator
from gatecore.backends.torch.sequence.stepping import Stepping
from gatecore.cells import Cell


class Result(NamedTuple):
    """The results of a layer, and the name of the implementation that ran."""

    outputs: tuple[Tensor, ...]  # hidden states, perhaps cell states, of all steps
    states: tuple[Tensor, ...]  # last states (1, batch, width)
    impl: str


def run(
    cell: Cell, params: Mapping[str, Tensor], x: Tensor, states: tuple[Tensor, ...] | None = None,
    resets: Tensor | None = None, zoneout: tuple[Any, ...] | None = None,
    return_cells: bool = False, impl: str = "auto",
) -> Result:  # fmt: skip
    """The results of a :class:`Call`, all tensors of one dtype, float32 or float64.

    Raises ValueError if the implementation that ``impl`` names does not support the call.
    """
    call = Call(cell, x, params, states or (), resets, active(zoneout), return_cells)
    chosen = dispatch.choose(impl, call)
    results: Sequence[Tensor]
    if isinstance(chosen, Stepping):
        check_memory(**call.named())
        results = chosen.forward(call.complete())
    elif needs_operator(x):
        results = custom_op.run(call.complete(), chosen.name)
    else:
        call = call if chosen.completes_calls else call.complete()
        tensors = call.tensors()
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            results = _Sequence.apply(call, chosen, *tensors)
        else:
            results = chosen.forward(call, False)
    outputs = call.num_outputs
    return Result(tuple(results[:outputs]), tuple(results[outputs:]), chosen.name)


class _Sequence(torch.autograd.Function):
    """The operator as an autograd function of a call, its implementation and its tensors.

    For calls that autograd alone observes: the dispatcher costs more than a short sequence.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, implementation: Any, *tensors: Tensor) -> Any:
        results = implementation.forward(call, True)
        count = call.num_results
        ctx.cell, _, *ctx.rest = call  # but for x, which torch frees when it can
        ctx.implementation, ctx.num_tensors = implementation, len(tensors)
        ctx.set_materialize_grads(False)
        # all of them: torch refuses a backward if one was changed meanwhile
        ctx.save_for_backward(*tensors, *results[count:])
        return tuple(results[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors, wrt_x = ctx.saved_tensors, ctx.needs_input_grad[2]
        call, saved = Call(ctx.cell, tensors[0], *ctx.rest), tensors[ctx.num_tensors :]
        cotangents = grads[: call.num_outputs], grads[call.num_outputs :]
        if custom_op.needs_stepping(grads) or needs_operator(call.x):
            with torch.enable_grad():  # else a sum of two biases would require no gradient
                complete = call.complete()
            arguments: Any = (complete, ctx.implementation.name, saved, *cotangents, wrt_x)
            by_name = custom_op.run_backward(*arguments)
            by_name["bias_hh"] = by_name["bias"]
            states = custom_op.STATES[: len(call.states)]
            names = [*(["x"] if wrt_x else []), *call.params, *states]
            gradients = [by_name[name] for name in names]
        else:
            gradients = ctx.implementation.backward(call, saved, *cotangents, wrt_x)
        leading = (None, None) if wrt_x else (None, None, None)
        rest = (None,) * (2 + ctx.num_tensors - len(leading) - len(gradients))
        return (*leading, *gradients, *rest)
