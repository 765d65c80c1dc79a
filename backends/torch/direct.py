"""A sequence by the native library, where nothing but autograd looks at it.

It computes what the operation does. torch's dispatcher takes longer than the library does over a
short sequence.
"""

from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch import native
from gatecore.backends.torch.arguments import Arguments
from gatecore.backends.torch.operation import sequence_backward, watched


def run(given: Arguments) -> Any:
    """Outputs and last states."""
    tensors = (given.x, *given.params.values(), *given.states)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Sequence.apply(given, *tensors)
    return native.forward(given, False)


class _Sequence(torch.autograd.Function):
    """Its tensors are x, the parameters and the states of ``given``."""

    @staticmethod
    def forward(ctx: Any, given: Arguments, *tensors: Tensor) -> Any:
        *results, memory = native.forward(given, True)
        more = [t for t in (given.resets, *(given.zoneout or ())) if isinstance(t, Tensor)]
        ctx.given = given._replace(x=None)  # type: ignore[arg-type]  # torch frees it when it can
        ctx.set_materialize_grads(False)
        # all of them: torch refuses a backward if one was changed meanwhile
        ctx.save_for_backward(memory, *tensors, *more)
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        memory, x, *_ = ctx.saved_tensors
        given, wrt_x = ctx.given._replace(x=x), ctx.needs_input_grad[1]
        d_outputs, d_states = grads[: given.outputs], grads[given.outputs :]
        if torch.is_grad_enabled() or watched(x):
            # a derivative of this one may be wanted: then the operation, which has one
            gradients = _differentiable(given, memory, d_outputs, d_states, wrt_x)
        else:
            gradients = native.backward(given, memory, d_outputs, d_states, wrt_x)
        return (None, *gradients) if wrt_x else (None, None, *gradients)


def _differentiable(
    given: Arguments, memory: Tensor, d_outputs: Any, d_states: Any, wrt_x: bool
) -> list[Tensor]:
    complete = given.complete()
    first, *rest = sequence_backward(
        *complete.flat(), "native", [memory], *(*d_outputs, None)[:2], *(*d_states, None)[:2], wrt_x
    )
    own = dict(zip(complete.params, rest, strict=False))
    own["bias_hh"] = own["bias"]
    starts = rest[len(complete.params) :] if given.states else []
    return [*([first] if wrt_x else []), *(own[name] for name in given.params), *starts]
