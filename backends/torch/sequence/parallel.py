"""A layer whose gates do not depend on the state, by an associative scan on any device.

Only the states are saved: the backward pass computes gates and candidates again. Both passes go
through time in parts, of which the temporaries stay in a CPU's cache, or small beside the sequence.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gatecore.backends.common.linear_recurrence import backward_steps, logits_vjp
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import (
    Gradients,
    OperatorImplementation,
    check_memory,
)
from gatecore.backends.torch.sequence.linear_recurrence import inputs, linear_recurrence, states
from gatecore.backends.torch.sequence.precision import no_autocast
from gatecore.normalization import layer_norm

_ELEMENTS = {"cpu": 1 << 18}  # of an array (time, batch, hidden) of a part, by kind of device
_DEVICE_ELEMENTS = 1 << 26


class Parallel(OperatorImplementation):
    """The associative scan, with the derivative of ``common.linear_recurrence``."""

    name, device = "parallel", None
    normalizes = True

    def _unsupported(self, call: Call) -> str | None:
        return "its gates depend on the state" if call.cell.recurrent else None

    @torch.no_grad()
    def forward(self, call: Call, save_for_backward: bool) -> list[Tensor]:
        check_memory(**call.named())
        (state,), (time, batch, _) = call.states, call.x.shape
        outputs = call.x.new_empty(time, batch, call.cell.hidden_size)
        with no_autocast(call.x.device.type):
            for part in _parts(call):
                outputs[part] = states(call, part, state)
                state = outputs[part.stop - 1]
        return [outputs, state.unsqueeze(0).clone(), *([outputs.clone()] * save_for_backward)]

    @torch.no_grad()
    def backward(
        self, call: Call, saved: Sequence[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        weight, (hidden,) = call.params["weight_ih"], saved
        d_x = torch.empty_like(call.x) if wrt_x else None
        d_params = {name: torch.zeros_like(value) for name, value in call.params.items()}
        d_state = torch.zeros_like(call.states[0]) if d_states[0] is None else d_states[0][0]
        with no_autocast(call.x.device.type):
            for part in reversed([*_parts(call)]):
                d_output = None if d_outputs[0] is None else d_outputs[0][part]
                d_logits, d_state = _backward(call, part, hidden, d_output, d_state)
                d_vectors = {"bias": d_logits.sum((0, 1))}
                if call.cell.layer_norm:
                    d_logits, d_vectors = _normalization_backward(call, part, d_logits)
                x, flat = call.x[part].flatten(0, 1), d_logits.flatten(0, 1)
                d_params["weight_ih"] += _product(flat, x)
                for name, d in d_vectors.items():
                    d_params[name] += d
                if d_x is not None:
                    d_x[part] = d_logits @ weight
        first = [] if d_x is None else [d_x]
        return [*first, *(d_params[name] for name in call.params), d_state.clone()]

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        return [(*call.x.shape[:2], call.cell.hidden_size)]


def _parts(call: Call) -> Iterator[slice]:
    """Consecutive parts of time."""
    time, batch, _ = call.x.shape
    elements = _ELEMENTS.get(call.x.device.type, _DEVICE_ELEMENTS)
    steps = max(1, elements // max(1, batch * call.cell.hidden_size))
    return (slice(start, min(start + steps, time)) for start in range(0, time, steps))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The product of left (n, rows) transposed and right (n, columns), summed block by block.

    Sums of few columns over 100,000 entries, one after the other, would lose two digits.
    """
    size, rest = max(1024, len(left) // 64), len(left) % max(1024, len(left) // 64)
    whole = len(left) - rest
    blocks = torch.bmm(left[:whole].view(-1, size, left.shape[1]).mT,
                       right[:whole].view(-1, size, right.shape[1]))  # fmt: skip
    return blocks.sum(0) + left[whole:].T @ right[whole:]


def _backward(call: Call, part: slice, hidden: Tensor, d_output: Tensor | None,
              d_state: Tensor) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Cotangents of the packed logits, and of the state before the part, from that after it."""
    cell, (logits, resets, zoneout) = call.cell, inputs(call, part)
    start = call.states[0] if part.start == 0 else hidden[part.start - 1]
    before = torch.cat([start.unsqueeze(0), hidden[part.start : part.stop - 1]])
    d_output = torch.zeros_like(before) if d_output is None else d_output
    steps, first = backward_steps(cell, logits, d_output, d_state, resets, zoneout)
    d_hidden = linear_recurrence(steps, reverse=True)
    d_before = first * d_hidden[0]
    if resets is not None:
        before, d_before = before.masked_fill(resets, 0), d_before.masked_fill(resets[0], 0)
    return logits_vjp(cell, logits, before, d_hidden, zoneout), d_before


def _normalization_backward(call: Call, part: slice,
                            d_logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
    """Cotangents of the product W x, and of the gain and the bias by name."""
    params = call.params
    with torch.enable_grad():
        leaves = [value.detach().requires_grad_() for value in (
            call.x[part] @ params["weight_ih"].T, params["norm_ih"], params["bias"])]  # fmt: skip
        d_product, *d_vectors = torch.autograd.grad(layer_norm(*leaves), leaves, d_logits)
    return d_product, dict(zip(("norm_ih", "bias"), d_vectors, strict=True))
