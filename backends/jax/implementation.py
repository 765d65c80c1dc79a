"""Implementations of a layer over a whole sequence, and their derivative under JAX."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.custom_derivatives import SymbolicZero, custom_vjp_primal_tree_values

from gatecore.backends.jax.arguments import Arguments, States
from gatecore.backends.jax.placement import zeros
from gatecore.cells import Cell


class Call(NamedTuple):
    """The properties of a call that decide which implementations support it."""

    dtype: Any
    sizes: tuple[int, ...] | None = None  # (time, batch, input, hidden)
    autodiff: bool = False
    recurrent: bool = True  # whether the gates depend on the state
    layer_norm: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Implementation:
    """One way to run a layer over a whole sequence, forward and backward.

    ``unsupported`` returns why it cannot run a :class:`Call`, or None. ``forward(cell, num_outputs,
    saves, arguments)`` returns the first ``num_outputs`` parts of the states after each step, the
    final state, and if ``saves`` what ``backward`` reads. ``backward(cell, num_outputs, wrt_x,
    arguments, saved, cotangents)`` returns the cotangents of the parameters, of the initial state,
    and of x, from those of the outputs and of the final state. That of x may be zero unless
    ``wrt_x``.
    """

    name: str
    unsupported: Callable[[Call], str | None]
    forward: Callable[..., Any]
    backward: Callable[..., Any]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def run(implementation: Implementation, cell: Cell, num_outputs: int,
        arguments: Arguments) -> tuple[States, States]:  # fmt: skip
    """The outputs and the final state, differentiated by the implementation's ``backward``."""
    return implementation.forward(cell, num_outputs, False, arguments)[:2]


def _run_forward(implementation: Implementation, cell: Cell, num_outputs: int,
                 arguments: Any) -> tuple[Any, Any]:  # fmt: skip
    wrt_x = arguments.x.perturbed
    arguments = custom_vjp_primal_tree_values(arguments)
    *results, saved = implementation.forward(cell, num_outputs, True, arguments)
    # residuals are trees of arrays: an empty tuple or None stands for the flag
    return tuple(results), (() if wrt_x else None, arguments, saved)


def _run_backward(implementation: Implementation, cell: Cell, num_outputs: int, residuals: Any,
                  cotangents: Any) -> tuple[Arguments]:  # fmt: skip
    wrt_x, arguments, saved = residuals
    cotangents = jax.tree.map(
        lambda d: zeros(d.aval) if isinstance(d, SymbolicZero) else d, cotangents
    )
    backward = functools.partial(implementation.backward, cell, num_outputs, wrt_x is not None)
    return (Arguments(*backward(arguments, saved, cotangents)),)


run.defvjp(_run_forward, _run_backward, symbolic_zeros=True)
