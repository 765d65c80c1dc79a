"""Layers over whole sequences in NumPy, each with its pullback, and the learner."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gatecore.backends.common.validation import arguments
from gatecore.backends.native import layer as native
from gatecore.backends.native import library
from gatecore.backends.numpy.bptt import Engine, Layer, Pullback, Stack, run
from gatecore.backends.numpy.learner import ExplicitLearner
from gatecore.cells import CELLS
from gatecore.contracts.model import ModelSpec
from gatecore.mechanisms import Mechanism

Params = Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]]

_ENGINE = Engine(np, (native.NativeLayer, Layer), library.default_threads)


def lstm(
    params: Params, x: np.ndarray, state: Any = None, mechanism: str | Mechanism = "UR", *,
    resets: np.ndarray | None = None, zoneout: Any = None, return_cells: bool = False,
    impl: str = "auto",
) -> tuple[Any, Any, Pullback | Stack]:  # fmt: skip
    """An LSTM over a whole sequence (equations 2-15, by mechanism), and its pullback.

    ``params`` are ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden) and ``bias`` (rows,),
    packed in the mechanism's order, as :class:`gatecore.cells.LSTM` draws them, of the dtype of x
    (time, batch, input), float32 or float64. With the parameters of layer normalization as well
    (``layer_norm=True`` there) the layer is normalized. ``state`` is (h, c), each (batch, hidden),
    by default zeros. It is zeroed before the steps at which bool ``resets`` (time, batch) is true.
    ``zoneout`` (cell, hidden) are probabilities of keeping the old value, in [0, 1], for
    evaluation, or masks (time, batch, hidden) of ones and zeros. For stacked layers ``params``,
    ``state`` and ``zoneout`` are lists, one entry a layer.

    ``impl`` is "native" for the native library, which computes in float32, "reference" for NumPy,
    or "auto", the library wherever it supports the call; ``pullback.impl`` names the one that ran.

    Returned are the output (time, batch, hidden), with ``return_cells`` a pair of the hidden and
    the cell states of all steps, as is the pullback's cotangent then; (h, c) after the last step;
    and ``pullback(d_output, d_state=None) -> (d_params, d_x, d_state)``, for which ``wrt_x=False``
    leaves d_x out. ``pullback.gates()`` is the effective forget gate of every step. The arrays that
    it saved return to a pool when it is dropped; no later call overwrites a result. ValueError or
    TypeError for shapes or dtypes that do not fit, parameters that are not finite, or an ``impl``
    that does not support the call, with the reason.

    >>> from gatecore.cells import LSTM
    >>> params = LSTM(3, 8, mechanism="UR").init(rng=0)
    >>> output, (h, c), pullback = lstm(params, np.ones((5, 2, 3)))
    >>> d_params, d_x, d_state = pullback(np.ones_like(output))
    >>> output.shape, d_params["weight_hh"].shape, pullback.impl
    ((5, 2, 8), (32, 8), 'reference')
    """
    options = {"resets": resets, "zoneout": zoneout, "return_cells": return_cells, "impl": impl}
    return run(_ENGINE, "lstm", params, x, state, mechanism, **options)


def _hidden_state_layer(core: str, doc: str) -> Callable[..., tuple[Any, Any, Pullback | Stack]]:
    """The function of a core whose state is h alone."""

    def layer(
        params: Params, x: np.ndarray, state: Any = None, mechanism: str | Mechanism = "UR", *,
        resets: np.ndarray | None = None, zoneout: Any = None, impl: str = "auto",
    ) -> tuple[Any, Any, Pullback | Stack]:  # fmt: skip
        options = {"resets": resets, "zoneout": zoneout, "impl": impl}
        return run(_ENGINE, core, params, x, state, mechanism, **options)

    layer.__name__ = layer.__qualname__ = core
    layer.__doc__ = doc
    return layer


gru = _hidden_state_layer(
    "gru",
    """A GRU over a whole sequence, reset after the product as in torch, and its pullback.

    As :func:`lstm`, except that the state is h (batch, hidden), ``params`` also has ``bias_n``
    (hidden,), and zoneout is one probability or mask.

    >>> from gatecore.cells import GRU
    >>> output, h, pullback = gru(GRU(3, 8).init(rng=0), np.ones((5, 2, 3)))
    >>> h.shape
    (2, 8)
    """,
)
minimal = _hidden_state_layer(
    "minimal",
    """The minimal gated cell over a whole sequence (footnote 4), and its pullback.

    As :func:`lstm`, but the state is h (batch, hidden), and zoneout one probability or mask.

    >>> from gatecore.cells import Minimal
    >>> output, h, pullback = minimal(Minimal(3, 8).init(rng=0), np.ones((5, 2, 3)))
    >>> pullback.gates().value.shape
    (5, 2, 8)
    """,
)


def mingru(
    params: Params, x: np.ndarray, state: Any = None, mechanism: str | Mechanism = "UR", *,
    candidate: str = "linear", resets: np.ndarray | None = None, zoneout: Any = None,
    impl: str = "auto",
) -> tuple[np.ndarray, Any, Pullback | Stack]:  # fmt: skip
    """The linear recurrence h' = g·h + (1 − g)·u, with g and u of x alone, and its pullback.

    As :func:`minimal`, but ``params`` are ``weight_ih`` (rows, input) and ``bias`` (rows,) alone;
    the ``candidate`` is u = Wx + b if "linear" (Feng et al. 2024), its tanh if "tanh" (Martin &
    Cundy 2018).

    >>> from gatecore.cells import MinGRU
    >>> output, h, pullback = mingru(MinGRU(3, 8).init(rng=0), np.ones((5, 2, 3)))
    >>> d_params, d_x, d_state = pullback(np.ones_like(output))
    >>> h.shape, d_params["weight_ih"].shape
    ((2, 8), (24, 3))
    """
    options = {"candidate": candidate, "resets": resets, "zoneout": zoneout, "impl": impl}
    return run(_ENGINE, "mingru", params, x, state, mechanism, **options)


def layer_vjp(
    core: str, arrays: Mapping[str, np.ndarray], cotangent: np.ndarray,
    mechanism: str | Mechanism = "UR", zoneout: Any = None, impl: str = "auto",
) -> tuple[np.ndarray, dict[str, np.ndarray]]:  # fmt: skip
    """The output of a layer, and the gradient of ⟨cotangent, output⟩ by the names of ``arrays``.

    These are the layer's parameters, ``x`` and the parts of its state; see :func:`lstm`.
    """
    params, x, state = arguments(core, arrays)
    options = {"zoneout": zoneout, "impl": impl}
    output, _, pullback = run(_ENGINE, core, params, x, state, mechanism, **options)
    d_params, d_x, d_state = pullback(cotangent)
    parts = CELLS[core](1, 3).parts(d_state)
    return output, {**d_params, "x": d_x, **dict(zip(CELLS[core].state_names, parts, strict=True))}


def release() -> None:
    """Free the memory that the backend keeps for later calls."""
    _ENGINE.pool.clear()
    native.release()


class Learner(ExplicitLearner):
    """Trains a ``ModelSpec`` in NumPy: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Keywords are ``seed``, at least 0: equal seeds give equal initial weights and noise on every
    backend; Adam's ``betas`` in [0, 1), by default (0.9, 0.999), and ``eps`` above 0, by default
    1e-8; ``dtype``, "float32" or "float64"; and ``impl``, "auto", "native" or "reference", as
    :func:`lstm` takes it. ValueError or TypeError for a setting out of its range, and for a model
    or an ``impl`` that is not supported.
    """

    def __init__(self, spec: ModelSpec, **settings: Any) -> None:
        super().__init__(_ENGINE, spec, **settings)


__all__ = ["Learner", "gru", "layer_vjp", "lstm", "mingru", "minimal", "release"]
