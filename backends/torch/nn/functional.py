"""Recurrent layers as functions of parameters that are packed as those of ``gatecore.cells``."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gatecore import _checks, mechanisms
from gatecore.backends.common.signature import signature
from gatecore.backends.common.validation import (
    arguments,
    check_array,
    check_parameters,
    hidden_size,
    zoneout_parts,
)
from gatecore.backends.torch.nn.base import check_tensors
from gatecore.backends.torch.sequence import dispatch
from gatecore.backends.torch.sequence.call import cell_of
from gatecore.backends.torch.sequence.run import run
from gatecore.cells import CELLS, GAINS
from gatecore.mechanisms import Mechanism

Params = Mapping[str, Tensor]
Amount = float | Tensor


def lstm(
    params: Params, x: Tensor, state: tuple[Tensor, Tensor] | None = None,
    mechanism: str | Mechanism = "UR", *, resets: Tensor | None = None,
    zoneout: tuple[Amount, Amount] | None = None, return_cells: bool = False, impl: str = "auto",
) -> tuple[Any, tuple[Tensor, Tensor]]:  # fmt: skip
    """An LSTM over a whole sequence (equations 2-15, by mechanism), differentiable by torch.

    The counterpart of ``gatecore.backends.numpy.lstm``. ``params`` are ``weight_ih`` (rows, input),
    ``weight_hh`` (rows, hidden) and ``bias`` (rows,), packed in the mechanism's order, as
    :class:`gatecore.cells.LSTM` initializes them, also with layer normalization; x is (time, batch,
    input), float32 or float64, and all tensors have its dtype and device. ``state`` is (h, c), each
    (batch, hidden), by default zeros, and is zeroed before the steps at which bool ``resets``
    (time, batch) is true.
    ``zoneout`` (cell, hidden) are probabilities in [0, 1] (the expectation, for evaluation), or
    masks (time, batch, hidden) that are 1 where the old value is kept. ``impl`` is "auto",
    "native", "reference", "fused", "graph", "plain" or "scan".

    Returned are the output (time, batch, hidden), with ``return_cells`` a pair of the hidden and
    the cell states of all steps, and (h, c) after the last step. ValueError if x has not three
    axes, the state is no pair, ``impl`` is unknown, or that implementation does not support the
    call; TypeError if an argument is no tensor.

    >>> from gatecore.cells import LSTM
    >>> params = {k: torch.tensor(v) for k, v in LSTM(3, 8).init(rng=0).items()}
    >>> output, (h, c) = lstm(params, torch.ones(5, 2, 3, dtype=torch.float64))
    >>> output.shape
    torch.Size([5, 2, 8])
    """
    return _call("lstm", params, x, state, mechanism, resets, zoneout, impl, return_cells)


def gru(
    params: Params, x: Tensor, state: Tensor | None = None, mechanism: str | Mechanism = "UR", *,
    resets: Tensor | None = None, zoneout: Amount | None = None, impl: str = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A GRU over a whole sequence, reset after the product; its update gate is the forget gate.

    As :func:`lstm`, but the state is h (batch, hidden), zoneout a single amount, and ``params`` has
    ``bias_n`` (hidden,) too.

    >>> from gatecore.cells import GRU
    >>> params = {k: torch.tensor(v) for k, v in GRU(3, 8).init(rng=0).items()}
    >>> output, h = gru(params, torch.ones(5, 2, 3, dtype=torch.float64))
    >>> h.shape
    torch.Size([2, 8])
    """
    return _call("gru", params, x, state, mechanism, resets, zoneout, impl)


def minimal(
    params: Params, x: Tensor, state: Tensor | None = None, mechanism: str | Mechanism = "UR", *,
    resets: Tensor | None = None, zoneout: Amount | None = None, impl: str = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The minimal gated cell (footnote 4; JANET) over a whole sequence.

    As :func:`lstm`, but the state is h (batch, hidden) and zoneout a single amount.

    >>> from gatecore.cells import Minimal
    >>> params = {k: torch.tensor(v) for k, v in Minimal(3, 8).init(rng=0).items()}
    >>> output, h = minimal(params, torch.ones(5, 2, 3, dtype=torch.float64), mechanism="UR")
    >>> torch.equal(output[-1], h)
    True
    """
    return _call("minimal", params, x, state, mechanism, resets, zoneout, impl)


def mingru(
    params: Params, x: Tensor, state: Tensor | None = None, mechanism: str | Mechanism = "UR", *,
    candidate: str = "linear", resets: Tensor | None = None, zoneout: Amount | None = None,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The linear recurrence h' = g·h + (1 − g)·u, with g and u of x alone, over a whole sequence.

    As :func:`minimal`, but ``params`` are ``weight_ih`` (rows, input) and ``bias`` (rows,) alone;
    the ``candidate`` is u = Wx + b if "linear" (Feng et al. 2024), its tanh if "tanh" (Martin &
    Cundy 2018). ``impl`` may also be "parallel", an associative scan.

    >>> from gatecore.cells import MinGRU
    >>> params = {k: torch.tensor(v) for k, v in MinGRU(3, 8).init(rng=0).items()}
    >>> output, h = mingru(params, torch.ones(5, 2, 3, dtype=torch.float64), mechanism="UR")
    >>> torch.equal(output[-1], h)
    True
    """
    options = mechanism, resets, zoneout, impl
    return _call("mingru", params, x, state, *options, candidate=candidate)


def _check(name: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype, axes: str) -> None:
    if not (isinstance(value, Tensor) and value.dtype is dtype and value.shape == shape):
        check_tensors(name, value)
        check_array(name, value, shape, dtype, axes)


def layer_vjp(
    core: str, arrays: Mapping[str, Any], cotangent: Any, mechanism: str | Mechanism = "UR",
    zoneout: Any = None, impl: str = "auto",
) -> tuple[Any, dict[str, Any]]:  # fmt: skip
    """The output of a layer, and the gradient of ⟨cotangent, output⟩, as NumPy arrays by name.

    ``arrays`` are the layer's parameters, ``x`` and the parts of its state; see :func:`lstm`.
    """
    tensors = {name: torch.tensor(array, requires_grad=True) for name, array in arrays.items()}
    params, x, state = arguments(core, tensors)
    output = _call(core, params, x, state, mechanism, None, zoneout, impl)[0]
    grads = torch.autograd.grad(output, list(tensors.values()), torch.tensor(cotangent))
    return output.detach().numpy(), {k: g.numpy() for k, g in zip(tensors, grads, strict=True)}


def _call(
    core: str, params: Params, x: Tensor, state: Any, mechanism: str | Mechanism,
    resets: Tensor | None, zoneout: Any, impl: str, return_cells: bool = False, **fields: Any,
) -> Any:  # fmt: skip
    check_tensors("x", x)
    if not x.is_floating_point():
        raise TypeError(f"x must be float32 or float64, got {x.dtype}: convert it")
    if not isinstance(params, Mapping):
        raise TypeError(f"params must be a mapping of tensors, got {type(params).__name__}")
    for name, value in params.items():
        check_tensors(f"params[{name!r}]", value)
        if value.dtype != x.dtype:
            raise TypeError(f"params[{name!r}] must be {x.dtype} as x, got {value.dtype}")
    if x.dim() != 3:
        raise ValueError(f"x must have shape (time, batch, input), got {tuple(x.shape)}: add the "
                         "missing axes, as in x.unsqueeze(1) for a single sequence")  # fmt: skip
    width = hidden_size(core, params, mechanism)
    fields["layer_norm"] = any(name in params for name in GAINS)
    kind = CELLS[core](x.shape[2], width, mechanism, **fields).kind
    cell = cell_of(signature(kind, mechanisms.mechanism(mechanism)), x.shape[2], width)
    check_parameters(cell, params)
    states, time_batch = None if state is None else cell.parts(state), tuple(x.shape[:2])
    for part in states or ():
        _check("state", part, (x.shape[1], cell.hidden_size), x.dtype, "(batch, hidden)")
    if resets is not None:
        _check("resets", resets, time_batch, torch.bool, "(time, batch)")
    amounts = zoneout_parts(cell, zoneout)
    for mask in (amount for amount in amounts or () if isinstance(amount, Tensor)):
        shape = (*time_batch, cell.hidden_size)
        _check("zoneout mask", mask, shape, x.dtype, "(time, batch, hidden)")
    amounts = amounts and tuple(
        amount if isinstance(amount, Tensor) else _checks.probability("zoneout", amount)
        for amount in amounts
    )
    return_cells = _checks.flag("return_cells", return_cells)
    result = run(cell, params, x, states, resets, amounts, return_cells, dispatch.checked(impl))
    output = result.outputs if return_cells else result.outputs[0]
    return output, cell.state([part.squeeze(0) for part in result.states])
