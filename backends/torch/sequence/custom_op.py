"""A whole sequence as one operation of ``torch.library``, ``gatecore::sequence``.

It returns [hidden states of all steps, (cell states of all steps,) last states, saved tensors], the
last states with an axis of length 1 in front, as torch's layers return theirs.
Its backward is an operation too, whose own derivative goes through the plain path: gradients of
any order exist. Its argument ``path`` says by what both run: "native" is the C++ library and
"reference" the explicit driver on a CPU's memory, "fused" the same with gatecore's kernels on CUDA,
"graph" the plain path as a captured CUDA graph, "plain" the plain path itself.
"""

from typing import Any

import torch
from torch import Tensor

from gatecore.backends.cuda import interop
from gatecore.backends.torch.sequence import (
    cuda_graphs,
    cupy_kernels,
    native,
    numpy_bptt,
    recompute,
)
from gatecore.backends.torch.sequence.arguments import Arguments
from gatecore.backends.torch.sequence.precision import no_autocast

_CPU = numpy_bptt.Place()
_TENSORS = 10  # the leading arguments after the computation's name, up to the draws of zoneout


def _forward(
    computation: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    bias_n: Tensor | None,
    hidden: Tensor,
    memory: Tensor | None,
    resets: Tensor | None,
    drawn_cell: Tensor | None,
    drawn_hidden: Tensor | None,
    kept_cell: float,
    kept_hidden: float,
    cells: bool,
    path: str,
    keep: bool,
) -> list[Tensor]:
    """One recurrent layer over x (time, batch, input).

    ``computation`` names what is computed, see ``computation.py``; ``hidden`` and ``memory`` are
    the states (batch, hidden); ``keep`` says whether a backward may follow.
    """
    given = Arguments.of(
        computation, x, weight_ih, weight_hh, bias, bias_n, hidden, memory, resets,
        drawn_cell, drawn_hidden, kept_cell, kept_hidden, cells,
    )  # fmt: skip
    return computed(given, path, keep)


def computed(given: Arguments, path: str, keep: bool) -> list[Tensor]:
    """What the operation returns."""
    if path == "native":
        return native.forward(given, keep)
    with no_autocast(given.x.device.type):
        if path == "reference":
            return numpy_bptt.forward(given, keep, _CPU)
        if path == "fused":
            return cupy_kernels.forward(given, keep)
        return cuda_graphs.forward(given) if path == "graph" else recompute.forward(given)


sequence = torch.library.custom_op("gatecore::sequence", mutates_args=())(_forward)


@sequence.register_fake
def _(computation: str, x: Tensor, *arguments: Any) -> list[Tensor]:
    *rest, path, keep = arguments
    given = Arguments.of(computation, x, *rest)
    time, batch, _ = x.shape
    full = [x.new_empty(time, batch, given.cell.hidden_size) for _ in range(given.outputs)]
    last = [x.new_empty(1, batch, given.cell.hidden_size) for _ in range(given.state_count)]
    saved = _saved_shapes(given, path) if keep else []
    return [*full, *last, *(x.new_empty(shape) for shape in saved)]


def _pull(
    computation: str,
    x: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor,
    bias_n: Tensor | None,
    hidden: Tensor,
    memory: Tensor | None,
    resets: Tensor | None,
    drawn_cell: Tensor | None,
    drawn_hidden: Tensor | None,
    kept_cell: float,
    kept_hidden: float,
    cells: bool,
    path: str,
    saved: list[Tensor],
    d_output: Tensor | None,
    d_cells: Tensor | None,
    d_hidden: Tensor | None,
    d_memory: Tensor | None,
    wrt_x: bool,
) -> list[Tensor]:
    """Cotangents of x (empty unless ``wrt_x``), the parameters, and the initial states."""
    given = Arguments.of(
        computation, x, weight_ih, weight_hh, bias, bias_n, hidden, memory, resets,
        drawn_cell, drawn_hidden, kept_cell, kept_hidden, cells,
    )  # fmt: skip
    d_outputs, d_states = _cotangents(given, d_output, d_cells, d_hidden, d_memory)
    found = gradients(given, path, saved, d_outputs, d_states, wrt_x)
    return found if wrt_x else [x.new_empty(0), *found]


def gradients(
    given: Arguments,
    path: str,
    saved: list[Tensor],
    d_outputs: list[Tensor | None],
    d_states: list[Tensor | None],
    wrt_x: bool,
) -> list[Tensor]:
    """Cotangents of x, where they are wanted, of the parameters and of the states."""
    if path == "native":
        return native.backward(given, saved[0], d_outputs, d_states, wrt_x)
    with no_autocast(given.x.device.type):
        if path == "reference":
            return numpy_bptt.backward(given, saved, d_outputs, d_states, wrt_x, _CPU)
        if path == "fused":
            return cupy_kernels.backward(given, saved, d_outputs, d_states, wrt_x)
        run = cuda_graphs.backward if path == "graph" else recompute.backward
        return run(given, d_outputs, d_states, wrt_x)


sequence_backward = torch.library.custom_op("gatecore::sequence_backward", mutates_args=())(_pull)


@sequence_backward.register_fake
def _(computation: str, x: Tensor, *arguments: Any) -> list[Tensor]:
    *rest, _, _, _, _, _, _, wrt_x = arguments
    given = Arguments.of(computation, x, *rest)
    likes = [*given.params.values(), *given.states]
    first = x.new_empty(x.shape) if wrt_x else x.new_empty(0)
    return [first, *(like.new_empty(like.shape) for like in likes)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *given, _ = inputs
    ctx.constants = (given[0], *given[1 + _TENSORS :])
    count = (2 if given[-2] else 1) + (1 if given[7] is None else 2)
    ctx.count, ctx.given = count, [t is not None for t in given[1 : 1 + _TENSORS]]
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[count:])
    present = [t for t in given[1 : 1 + _TENSORS] if t is not None]
    ctx.save_for_backward(*present, *output[count:])


def _backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    tensors = list(ctx.saved_tensors)
    given = [tensors.pop(0) if there else None for there in ctx.given]
    name, *constants = ctx.constants
    memory, cells = given[6] is not None, constants[-2]
    d = list(grads[: ctx.count])
    d_output, d_cells = d.pop(0), d.pop(0) if cells else None
    d_hidden, d_memory = d.pop(0), d.pop(0) if memory else None
    found = sequence_backward(
        name, *given, *constants, tensors, d_output, d_cells, d_hidden, d_memory,
        ctx.needs_input_grad[1],
    )  # fmt: skip
    present = iter(found)
    placed = [next(present) if tensor is not None else None for tensor in given[:7]]
    first = placed[0] if ctx.needs_input_grad[1] else None
    return (None, first, *placed[1:], *(None,) * 8)


sequence.register_autograd(_backward, setup_context=_setup)


def watched(x: Any) -> bool:
    """Whether torch traces, or a mode or a kind of tensor of its own wants to see the operation."""
    tracing = torch.compiler.is_compiling() or torch._C._len_torch_dispatch_stack() > 0
    return tracing or type(x) is not Tensor


def run(given: Arguments, path: str) -> list[Tensor]:
    """Outputs and last states."""
    tensors, _ = given.split()
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    return sequence(*given.flat(), path, keep)[: given.outputs + given.state_count]


def _setup_double(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    head, (saved, *cotangents, wrt_x) = inputs[:15], inputs[15:]
    ctx.constants = (head[0], *head[1 + _TENSORS :])
    ctx.wrt_x, ctx.saved_count = wrt_x, len(saved)
    tensors = [*head[1 : 1 + _TENSORS], *cotangents]
    ctx.given = [t is not None for t in tensors]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(t for t in tensors if t is not None))


def _double_backward(ctx: Any, grads: list[Tensor | None]) -> tuple[Any, ...]:
    """The derivative of the pullback, from the plain path."""
    create_graph, tensors = torch.is_grad_enabled(), iter(ctx.saved_tensors)
    with torch.enable_grad():
        given: list[Any] = [
            _traced(next(tensors), create_graph) if there else None for there in ctx.given
        ]
        arguments, cotangents = given[:_TENSORS], given[_TENSORS:]
        name, *constants = ctx.constants
        call = Arguments.of(name, *arguments, *constants[:-1])
        wanted = [*([call.x] if ctx.wrt_x else []), *call.params.values(), *call.states]
        d_outputs, d_states = _cotangents(call, *cotangents)
        first = recompute.pulled(
            recompute.results(call), [*d_outputs, *d_states], wanted, create_graph=True
        )
        sources = [t for t in (*arguments[:7], *cotangents) if t is not None]
        second = iter(recompute.pulled(first, _of_wanted(ctx, grads), sources, create_graph))
    back = [next(second) if there else None for there in [*ctx.given[:7], *ctx.given[_TENSORS:]]]
    none = (None,) * 7
    return (None, *back[:7], *none, [None] * ctx.saved_count, *back[7:], None)


def _of_wanted(ctx: Any, grads: list[Tensor | None]) -> list[Tensor | None]:
    return list(grads) if ctx.wrt_x else list(grads[1:])


def _traced(tensor: Tensor, create_graph: bool) -> Tensor:
    """A stand-in that requires a gradient, with the tensor's own history where that is wanted."""
    if not tensor.is_floating_point():
        return tensor
    if create_graph and tensor.requires_grad:
        return tensor.view_as(tensor)
    return tensor.detach().requires_grad_()


sequence_backward.register_autograd(_double_backward, setup_context=_setup_double)


def _cotangents(
    given: Arguments,
    d_output: Tensor | None,
    d_cells: Tensor | None,
    d_hidden: Tensor | None,
    d_memory: Tensor | None,
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    outputs = [d_output, d_cells] if given.cells else [d_output]
    return outputs, [d_hidden, d_memory][: given.state_count]


def _saved_shapes(given: Arguments, path: str) -> list[tuple[Any, ...]]:
    time, batch, _ = given.x.shape
    if path == "fused":
        return list(interop.saved_shapes(given.cell, (time, batch)))
    if path == "native":
        return native.saved_shapes(given)
    return numpy_bptt.shapes(given, _CPU) if path == "reference" else []
