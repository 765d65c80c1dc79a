"""One layer over a sequence by the implementation that is chosen: what the layers call."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from gatecore.backends.torch.sequence import autograd_function, custom_op, dispatch
from gatecore.backends.torch.sequence.call import Call, active
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
        results = chosen.forward(call.complete())
    elif custom_op.needs_operator(x):
        results = custom_op.run(call.complete(), chosen.name)
    else:
        results = autograd_function.run(call, chosen)
    outputs = call.num_outputs
    return Result(tuple(results[:outputs]), tuple(results[outputs:]), chosen.name)
