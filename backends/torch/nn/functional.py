"""Recurrent layers as functions of their parameters, laid out as ``gatecore.cells`` has them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.run import run
from gatecore.backends.torch.sequence.signature import cell_of, signature
from gatecore.mechanisms import Mechanism, mechanism

_mechanism = mechanism


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
    cell = cell_of(signature(core, _mechanism(mechanism)), x.shape[2], hidden_size)
    states = None if state is None else tuple(state) if core == "lstm" else (state,)
    done = run(cell, params, x, states, resets, zoneout, return_cells, dispatch.checked(impl))
    output = done.outputs if return_cells else done.outputs[0]
    last = tuple(part.squeeze(0) for part in done.states)
    return output, last if core == "lstm" else last[0]
