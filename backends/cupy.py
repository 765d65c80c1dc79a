"""The CuPy backend: the NumPy backend's interface on an NVIDIA GPU, with fused kernels.

Needs CuPy and a GPU; importing it without them raises an ImportError that names what is missing.
Arrays are CuPy's. A time step is one product and one kernel; from the second call of a shape on, a
whole sequence is one launch of a recorded CUDA graph. ``CUPY_TF32=1`` in the environment lets the
products use TF32, as everywhere in CuPy.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gatecore import _checks
from gatecore.backends.common.learner_checks import unsupported
from gatecore.backends.common.validation import cell_of
from gatecore.backends.cuda import launch
from gatecore.backends.cuda.steps import FusedLayer, KernelEngine
from gatecore.backends.numpy.bptt import Call, Pullback, Stack, run
from gatecore.backends.numpy.learner import ExplicitLearner
from gatecore.contracts.model import ModelSpec
from gatecore.mechanisms import Mechanism

cupy = launch.require()

Array = Any  # cupy.ndarray
Params = Mapping[str, Array] | Sequence[Mapping[str, Array]]
Results = tuple[Any, Any, Pullback | Stack]

_IMPLS = {"auto": "auto", "fused": "fused", "none": "reference"}  # by the value of ``kernels``


def lstm(
    params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
    resets: Array | None = None, zoneout: Any = None, return_cells: bool = False,
    kernels: str = "auto",
) -> Results:  # fmt: skip
    """An LSTM over a whole sequence, and its pullback: as ``gatecore.backends.numpy.lstm``.

    ``kernels`` is "fused", "none" for array operations, or "auto": the kernels wherever they
    support the call. ``pullback.impl`` is the name of the implementation that ran, "fused" or
    "reference". Errors are those of the NumPy backend, and ValueError if ``kernels="fused"`` does
    not support the call.
    """
    options = {"resets": resets, "zoneout": zoneout, "return_cells": return_cells}
    return _run("lstm", params, x, state, mechanism, kernels, **options)


def _hidden_state_layer(core: str) -> Callable[..., Results]:
    """The function of a core whose state is h alone."""

    def layer(
        params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
        resets: Array | None = None, zoneout: Any = None, kernels: str = "auto",
    ) -> Results:  # fmt: skip
        return _run(core, params, x, state, mechanism, kernels, resets=resets, zoneout=zoneout)

    layer.__name__ = layer.__qualname__ = core
    layer.__doc__ = f"As ``gatecore.backends.numpy.{core}``, with ``kernels`` as in :func:`lstm`."
    return layer


gru, minimal = map(_hidden_state_layer, ("gru", "minimal"))


def mingru(
    params: Params, x: Array, state: Any = None, mechanism: str | Mechanism = "UR", *,
    candidate: str = "linear", resets: Array | None = None, zoneout: Any = None,
    kernels: str = "auto",
) -> Results:  # fmt: skip
    """As ``gatecore.backends.numpy.mingru``; there are no kernels for it."""
    options = {"candidate": candidate, "resets": resets, "zoneout": zoneout}
    return _run("mingru", params, x, state, mechanism, kernels, **options)


def why_not_fused(core: str, params: Mapping[str, Array], x: Array,
                  mechanism: str | Mechanism = "UR") -> str | None:  # fmt: skip
    """Why the fused kernels do not support one such layer; None if they do."""
    _checks.choice("core", core, ("lstm", "gru", "minimal"))
    cell = cell_of(core, params, x, mechanism)
    return FusedLayer.unsupported(Call(_engine(), cell, params, x.shape[:2], x.dtype))


def release() -> None:
    """Free the memory and the recorded graphs that the backend keeps for later calls."""
    launch.release()


class Learner(ExplicitLearner):
    """Trains a ``ModelSpec`` on a GPU: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Batches are NumPy's, and so is what ``gates`` and ``state_dict`` return; ``parameters`` are
    CuPy arrays. ``kernels`` as in :func:`lstm`; ``impl`` is "auto" or, as ``kernels="none"``,
    "reference".
    """

    def __init__(self, spec: ModelSpec, *, kernels: str = "auto", impl: str = "auto",
                 **settings: Any) -> None:  # fmt: skip
        if impl == "reference" and kernels == "fused":
            raise ValueError("impl='reference' is without kernels, got kernels='fused': leave one "
                             "of them out")  # fmt: skip
        impl = _impl(kernels) if impl == "auto" else impl
        super().__init__(_engine(), spec, impl=impl, **settings)

    def _copied(self, value: Array) -> np.ndarray:
        return cupy.asnumpy(value)


def _run(core: str, params: Params, x: Array, state: Any, mechanism: Any, kernels: str,
         **options: Any) -> Results:  # fmt: skip
    return run(_engine(), core, params, x, state, mechanism, impl=_impl(kernels), **options)


def _impl(kernels: str) -> str:
    return _IMPLS[_checks.choice("kernels", kernels, _IMPLS)]


def _engine() -> KernelEngine:
    return launch.engine(cupy.cuda.runtime.getDevice())


__all__ = ["Learner", "gru", "lstm", "mingru", "minimal", "release", "unsupported", "why_not_fused"]
