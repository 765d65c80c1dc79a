"""The NumPy backend: whole sequences with explicit backpropagation through time.

Needs nothing but NumPy; in float32 the native library runs where it was built. Every mechanism,
float32 and float64; what a call returns is the caller's, and the memory that its pullback holds
goes back to a pool when the pullback is dropped.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatecore.backends.native import layer as native
from gatecore.backends.native import library
from gatecore.backends.numpy.bptt import Pullback, Stack, run
from gatecore.backends.numpy.engine import NativeEngine
from gatecore.backends.numpy.learner import ExplicitLearner
from gatecore.contracts.model import ModelSpec
from gatecore.mechanisms import Mechanism

Params = Mapping[str, np.ndarray] | Sequence[Mapping[str, np.ndarray]]

_ENGINE = NativeEngine(library.default_threads)


def lstm(
    params: Params,
    x: np.ndarray,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: np.ndarray | None = None,
    zoneout: Any = None,
    return_cells: bool = False,
    impl: str = "auto",
) -> tuple[Any, Any, Pullback | Stack]:
    """An LSTM over a whole sequence (equations 2-15, by mechanism), and its pullback.

    Parameters
    ----------
    params : mapping of arrays, or a list of them for stacked layers
        ``weight_ih`` (rows, input), ``weight_hh`` (rows, hidden), ``bias`` (rows,), packed in the
        mechanism's order; :class:`gatecore.cells.LSTM` draws them.
    x : array (time, batch, input), float32 or float64
        The parameters must have the same dtype.
    state : (h, c), each (batch, hidden), optional
        Zeros by default; a list of pairs for stacked layers.
    mechanism : str or Mechanism
    resets : bool array (time, batch), optional
        Where true, the state is zeroed before that step.
    zoneout : (cell, hidden), optional
        Amounts of the old values that are kept: numbers in [0, 1] (the expectation, for
        evaluation) or arrays (time, batch, hidden) of draws; a list of pairs for stacked layers.
    return_cells : bool
        The output is then a pair (hidden, cell) of all steps, and so is the pullback's cotangent.
    impl : {"auto", "native", "reference"}
        By the native library, by NumPy alone, or by the library wherever it serves: in float32,
        where it was built. ``pullback.path`` says which ran.

    Returns
    -------
    output : array (time, batch, hidden)
    state : (h, c)
        After the last step.
    pullback : callable
        ``pullback(d_output, d_state=None) -> (d_params, d_x, d_state)``; ``wrt_x=False`` leaves
        d_x out; ``pullback.gates()`` is the effective forget gate of every step.

    Raises
    ------
    ValueError, TypeError
        Shapes or dtypes that do not fit, parameters that are not finite, or an ``impl`` that
        can't be taken, with the reason.

    Examples
    --------
    >>> from gatecore.cells import LSTM
    >>> params = LSTM(3, 8, mechanism="UR").init(rng=0)
    >>> output, (h, c), pullback = lstm(params, np.ones((5, 2, 3)))
    >>> d_params, d_x, d_state = pullback(np.ones_like(output))
    >>> output.shape, d_params["weight_hh"].shape
    ((5, 2, 8), (32, 8))
    """
    return run(_ENGINE, "lstm", params, x, state, mechanism, resets, zoneout, return_cells, impl)


def gru(
    params: Params,
    x: np.ndarray,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: np.ndarray | None = None,
    zoneout: Any = None,
    impl: str = "auto",
) -> tuple[np.ndarray, Any, Pullback | Stack]:
    """A GRU over a whole sequence, reset after the product, and its pullback.

    As :func:`lstm`, but for the state h (batch, hidden), the further parameter ``bias_n``
    (hidden,), and a zoneout of one amount.
    """
    return run(_ENGINE, "gru", params, x, state, mechanism, resets, zoneout, impl=impl)


def minimal(
    params: Params,
    x: np.ndarray,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: np.ndarray | None = None,
    zoneout: Any = None,
    impl: str = "auto",
) -> tuple[np.ndarray, Any, Pullback | Stack]:
    """The minimal gated cell over a whole sequence (footnote 4), and its pullback.

    As :func:`lstm`, but for the state h (batch, hidden) and a zoneout of one amount.
    """
    return run(_ENGINE, "minimal", params, x, state, mechanism, resets, zoneout, impl=impl)


def release() -> None:
    """Free the memory that the backend keeps between calls."""
    _ENGINE.workspace.release()
    native.release()


class Learner(ExplicitLearner):
    """Trains a ``ModelSpec`` in NumPy: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    ``impl`` as in :func:`lstm`.
    """

    def __init__(self, spec: ModelSpec, *, impl: str = "auto", **settings: Any) -> None:
        super().__init__(_ENGINE, spec, impl=impl, **settings)


__all__ = ["Learner", "gru", "lstm", "minimal", "release"]
