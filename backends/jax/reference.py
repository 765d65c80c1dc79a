"""The reference implementation: a layer step by step, by ``lax.scan``."""

from typing import Any

from gatecore.backends.jax import linear_recurrence, normalized, scan
from gatecore.backends.jax.arguments import Arguments, States
from gatecore.backends.jax.implementation import Implementation
from gatecore.cells import Cell


def forward(cell: Cell, num_outputs: int, saves: bool,
            arguments: Arguments) -> tuple[States, States, Any]:  # fmt: skip
    """The forward pass: see :class:`Implementation`."""
    if not cell.recurrent:
        step_by_step = linear_recurrence.sequential
        return linear_recurrence.forward(step_by_step, cell, num_outputs, saves, arguments)
    run = normalized.forward if cell.layer_norm else scan.forward
    return run(cell, num_outputs, saves, arguments)


def backward(cell: Cell, num_outputs: int, wrt_x: bool, arguments: Arguments, saved: Any,
             cotangents: Any) -> Any:  # fmt: skip
    """The backward pass: see :class:`Implementation`."""
    rest = cell, num_outputs, wrt_x, arguments, saved, cotangents
    if not cell.recurrent:
        return linear_recurrence.backward(linear_recurrence.sequential, *rest)
    return normalized.backward(*rest) if cell.layer_norm else scan.backward(*rest)


REFERENCE = Implementation("reference", lambda call: None, forward, backward)
