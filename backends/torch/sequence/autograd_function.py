"""The operator's computation as an autograd function, for calls that autograd alone observes.

torch's dispatcher takes longer than the library does over a short sequence.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch.sequence import custom_op
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import OperatorImplementation
from gatecore.backends.torch.sequence.operator_fields import STATES


def run(call: Call, implementation: OperatorImplementation) -> Sequence[Tensor]:
    """Outputs and last states."""
    if not implementation.completes_calls:
        call = call.complete()
    tensors = call.tensors()
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Sequence.apply(call, implementation, *tensors)
    return implementation.forward(call, False)


class _Sequence(torch.autograd.Function):
    """Its arguments are the call, the implementation, and the call's tensors."""

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
        if custom_op.needs_stepping(grads) or custom_op.needs_operator(call.x):
            gradients = _by_operator(call, ctx.implementation.name, saved, *cotangents, wrt_x)
        else:
            gradients = ctx.implementation.backward(call, saved, *cotangents, wrt_x)
        leading = (None, None) if wrt_x else (None, None, None)
        rest = (None,) * (2 + ctx.num_tensors - len(leading) - len(gradients))
        return (*leading, *gradients, *rest)


def _by_operator(
    call: Call, impl: str, saved: Any, d_outputs: Any, d_states: Any, wrt_x: bool
) -> list[Tensor]:
    """Gradients of the call's sources, differentiable."""
    gradients = custom_op.run_backward(call.complete(), impl, saved, d_outputs, d_states, wrt_x)
    gradients["bias_hh"] = gradients["bias"]
    sources = [*(["x"] if wrt_x else []), *call.params, *STATES[: len(call.states)]]
    return [gradients[name] for name in sources]
