"""A sequence where nothing but autograd looks at it.

It computes what the operation does. torch's dispatcher takes longer than the library does over a
short sequence.
"""

from typing import Any

import torch
from torch import Tensor

from gatecore.backends.torch.sequence import custom_op
from gatecore.backends.torch.sequence.arguments import Arguments


def run(given: Arguments, path: str) -> Any:
    """Outputs and last states."""
    tensors = (given.x, *given.params.values(), *given.states)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return _Sequence.apply(given, path, *tensors)
    return custom_op.computed(given, path, False)


class _Sequence(torch.autograd.Function):
    """Its tensors are x, the parameters and the states of ``given``."""

    @staticmethod
    def forward(ctx: Any, given: Arguments, path: str, *tensors: Tensor) -> Any:
        results = custom_op.computed(given, path, True)
        count = given.outputs + given.state_count
        more = [t for t in (given.resets, *(given.zoneout or ())) if isinstance(t, Tensor)]
        ctx.given = given._replace(x=None)  # type: ignore[arg-type]  # torch frees it when it can
        ctx.path, ctx.first = path, len(tensors) + len(more)
        ctx.set_materialize_grads(False)
        # all of them: torch refuses a backward if one was changed meanwhile
        ctx.save_for_backward(*tensors, *more, *results[count:])
        return tuple(results[:count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        tensors, path, wrt_x = list(ctx.saved_tensors), ctx.path, ctx.needs_input_grad[2]
        given, saved = ctx.given._replace(x=tensors[0]), tensors[ctx.first :]
        d_outputs, d_states = list(grads[: given.outputs]), list(grads[given.outputs :])
        # a derivative of this one may be wanted: then the operation, which has one
        differentiable = torch.is_grad_enabled() or custom_op.watched(given.x)
        pull = _differentiable if differentiable else custom_op.gradients
        found = pull(given, path, saved, d_outputs, d_states, wrt_x)
        return (None, None, *found) if wrt_x else (None, None, None, *found)


def _differentiable(
    given: Arguments,
    path: str,
    saved: list[Tensor],
    d_outputs: list[Tensor | None],
    d_states: list[Tensor | None],
    wrt_x: bool,
) -> list[Tensor]:
    complete = given.complete()
    cotangents = *[*d_outputs, None][:2], *[*d_states, None][:2]
    first, *rest = custom_op.sequence_backward(*complete.flat(), path, saved, *cotangents, wrt_x)
    own = dict(zip(complete.params, rest, strict=False))
    own["bias_hh"] = own["bias"]
    starts = rest[len(complete.params) :] if given.states else []
    return [*([first] if wrt_x else []), *(own[name] for name in given.params), *starts]
