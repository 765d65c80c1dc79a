"""Recurrent layers as functions of their parameters, laid out as ``gatecore.cells`` has them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from gatecore.backends.torch.sequence import autograd_function, custom_op, dispatch, stepping
from gatecore.backends.torch.sequence.arguments import Arguments, added, idle, zero_states
from gatecore.backends.torch.sequence.signature import cell_of, computation
from gatecore.cells import Cell
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism


class Run(NamedTuple):
    """Hidden (and, where asked for, cell) states of all steps, the last states, what ran.

    The last states are (1, batch, width) each, as those of torch's layers.
    """

    outputs: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    impl: str


def run(
    cell: Cell,
    params: Mapping[str, Tensor],
    x: Tensor,
    states: tuple[Tensor, ...] | None = None,
    resets: Tensor | None = None,
    zoneout: tuple[Any, ...] | None = None,
    return_cells: bool = False,
    impl: str = "auto",
) -> Run:
    """One layer over x (time, batch, input); all tensors of one dtype, float32 or float64.

    ``states`` is (h,) or (h, c), by default zeros; ``zoneout`` amounts in the order cell, hidden;
    ``params`` may hold ``weight_hr``, and ``bias_hh``, which is added to ``bias``.
    """
    projection = params.get("weight_hr")
    taken = dispatch.choose(impl, x, cell, projection is not None)
    if taken in ("plain", "scan"):
        if states is None:
            states = zero_states(cell, x, 0 if projection is None else projection.shape[0])
        walk = stepping.loop if taken == "plain" else stepping.scan
        history, last = walk(cell, added(params), x, states, resets, zoneout)
        last = tuple(part.unsqueeze(0) for part in last)
        return Run(history if return_cells else history[:1], last, taken)
    amounts = None if zoneout is None or idle(zoneout) else zoneout
    given = Arguments(cell, x, params, states or (), resets, amounts, return_cells)
    watched = custom_op.watched(x)
    if watched or taken != "native":
        given = given.complete()  # the library alone starts from nothing, and adds biases itself
    results = (custom_op if watched else autograd_function).run(given, taken)
    outputs = 2 if return_cells else 1
    return Run(tuple(results[:outputs]), tuple(results[outputs:]), taken)


def lstm(
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Tensor | None = None,
    zoneout: tuple[Any, Any] | None = None,
    return_cells: bool = False,
    impl: str = "auto",
) -> tuple[Any, Any]:
    """An LSTM over x (time, batch, input): the output (time, batch, hidden), and (h, c).

    Arguments as for ``gatecore.backends.numpy.lstm``, as tensors; torch differentiates it.

    Parameters
    ----------
    params : mapping
        ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden), ``bias`` (rows,).
    impl : {"auto", "native", "reference", "fused", "graph", "plain", "scan"}

    Examples
    --------
    >>> import torch
    >>> from gatecore.cells import LSTM
    >>> params = {k: torch.tensor(v) for k, v in LSTM(3, 8).init(rng=0).items()}
    >>> output, (h, c) = lstm(params, torch.ones(5, 2, 3, dtype=torch.float64))
    >>> output.shape
    torch.Size([5, 2, 8])
    """
    return _call("lstm", params, x, state, mechanism, resets, zoneout, return_cells, impl)


def gru(
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Tensor | None = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Tensor | None = None,
    zoneout: Any = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """A GRU over x: the output and the last h; ``params`` also has ``bias_n`` (hidden,)."""
    amounts = None if zoneout is None else (zoneout,)
    return _call("gru", params, x, state, mechanism, resets, amounts, False, impl)


def minimal(
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Tensor | None = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Tensor | None = None,
    zoneout: Any = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    """The minimal gated cell over x: the output and the last h."""
    amounts = None if zoneout is None else (zoneout,)
    return _call("minimal", params, x, state, mechanism, resets, amounts, False, impl)


def _call(
    core: str,
    params: Mapping[str, Tensor],
    x: Tensor,
    state: Any,
    mechanism: str | Mechanism,
    resets: Tensor | None,
    zoneout: tuple[Any, ...] | None,
    return_cells: bool,
    impl: str,
) -> tuple[Any, Any]:
    if x.dim() != 3:
        raise ValueError(f"x must have shape (time, batch, input), got {tuple(x.shape)}")
    hidden_size = params["weight_hh"].shape[1]
    cell = cell_of(computation(core, _mechanism(mechanism)), x.shape[2], hidden_size)
    states = None if state is None else tuple(state) if core == "lstm" else (state,)
    done = run(cell, params, x, states, resets, zoneout, return_cells, dispatch.checked(impl))
    output = done.outputs if return_cells else done.outputs[0]
    last = tuple(part.squeeze(0) for part in done.states)
    return output, last if core == "lstm" else last[0]
