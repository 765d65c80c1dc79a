"""A layer step by step through ``gatecore.cells``, differentiable by torch to any order.

It serves double backward, forward-mode derivatives, ``torch.func``, projections and, by torch's
scan operation, export with the number of steps left open.
"""

from collections.abc import Callable, Mapping
from typing import Any

import array_api_compat.torch  # noqa: F401  the cells' namespace: it must be there when traced
import torch
from torch import Tensor

from gatecore.backends.torch.sequence import linear_recurrence
from gatecore.backends.torch.sequence.call import Call
from gatecore.backends.torch.sequence.implementation import Gradients
from gatecore.cells import Cell
from gatecore.cells import zoneout as apply_zoneout

States = tuple[Tensor, ...]


class Stepping:
    """A scan over the steps; torch differentiates :meth:`forward`. Supports every call."""

    def __init__(self, name: str, scan: Callable[[Call], tuple[States, States]]) -> None:
        self.name, self._scan = name, scan

    def unsupported(self, call: Call) -> None:
        """None."""

    def forward(self, call: Call, save_for_backward: bool = False) -> list[Tensor]:
        """Outputs and last states of a complete call; nothing is saved."""
        outputs, last = self._scan(call)
        return [*outputs[: call.num_outputs], *(state.unsqueeze(0) for state in last)]

    def backward(
        self, call: Call, saved: list[Tensor], d_outputs: Gradients, d_states: Gradients,
        wrt_x: bool,
    ) -> list[Tensor]:  # fmt: skip
        """Gradients of the call's sources, differentiable where gradients are enabled.

        The forward pass runs again. Sources that require no gradient get zeros.
        """
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad():
            # views: the gradients end here, and torch.func forbids to make leaves
            call = call.with_tensors(t.view_as(t) for t in call.tensors())
            results, sources = self.forward(call), call.sources(wrt_x)
            pairs = zip(results, [*d_outputs, *d_states], strict=True)
            present = [(r, d) for r, d in pairs if d is not None]
            present = present or [(results[0], torch.zeros_like(results[0]))]
            outputs, cotangents = zip(*present, strict=True)
            gradients = iter(torch.autograd.grad(
                outputs, [s for s in sources if s.requires_grad], cotangents,
                create_graph=create_graph, materialize_grads=True,
            ))  # fmt: skip
        return [next(gradients) if s.requires_grad else torch.zeros_like(s) for s in sources]

    def saved_shapes(self, call: Call) -> list[tuple[int, ...]]:
        """None are saved."""
        return []


def loop(call: Call) -> tuple[States, States]:
    """States after every step, each (time, batch, width), and the last ones."""
    if not call.cell.recurrent:
        product = linear_recurrence.product_by_blocks
        (initial,) = call.states
        hidden = linear_recurrence.states(call, slice(None), initial, product)
        return (hidden,), (hidden[-1].clone(),)
    history, states = [], call.states
    for t, projected in enumerate(call.cell.project(call.params, call.x)):
        reset, zoneout = None if call.resets is None else call.resets[t], call.zoneout
        zoneout = zoneout and tuple(z[t] if isinstance(z, Tensor) else z for z in zoneout)
        states = advance(call.cell, call.params, projected, states, reset, zoneout)
        history.append(states)
    return tuple(torch.stack(part) for part in zip(*history, strict=True)), states


def scan(call: Call) -> tuple[States, States]:
    """The same by torch's scan, which leaves the number of steps open when it is traced."""
    if not call.cell.recurrent:
        hidden, last = linear_recurrence.scan(call)
        return (hidden,), (last,)
    cell, params, resets, zoneout = call.cell, call.params, call.resets, call.zoneout or ()
    masks = {k: z for k, z in enumerate(zoneout) if isinstance(z, Tensor)}
    batch = call.x.shape[1]
    xs = [cell.project(params, call.x), *([] if resets is None else [resets]), *masks.values()]

    def step(states: list[Tensor], now: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        reset = None if resets is None else now[1]
        at_step = dict(zip(masks, now[len(now) - len(masks) :], strict=True))
        amounts = tuple(at_step.get(k, z) for k, z in enumerate(zoneout)) or None
        # the size names an open batch in the step, as AOTInductor needs
        projected = now[0].expand(batch, -1)
        new = advance(cell, params, projected, tuple(states), reset, amounts)
        return list(new), [s.clone() for s in new]  # scan forbids results that are one tensor

    from torch._higher_order_ops.scan import scan as torch_scan

    last, history = torch_scan(step, list(call.states), xs, dim=0)
    return tuple(history), tuple(last)


def advance(
    cell: Cell, params: Mapping[str, Tensor], projected: Tensor, states: States,
    reset: Tensor | None, zoneout: tuple[Any, ...] | None,
) -> States:  # fmt: skip
    """The next states, from the projected input (batch, rows) and the states."""
    if reset is not None:
        states = tuple(s.masked_fill(reset.unsqueeze(-1), 0) for s in states)
    if "weight_hr" not in params:
        return cell.advance(params, projected, states, zoneout)
    # an LSTM whose hidden state is W_hr (o tanh c): zoneout keeps old projected values
    hidden, cell_state = cell.advance(params, projected, states)
    new = (hidden @ params["weight_hr"].T, cell_state)
    return new if zoneout is None else tuple(map(apply_zoneout, states, new, reversed(zoneout)))


PLAIN, SCAN = Stepping("plain", loop), Stepping("scan", scan)
