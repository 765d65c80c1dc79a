"""The CuPy backend: the NumPy backend's interface on an NVIDIA GPU, with fused kernels.

Needs CuPy and a GPU; importing it without them raises an ImportError that says what is missing.
Arrays are CuPy's. A time step is one product and one kernel; from the second call of a shape on, a
whole sequence is one launch of a recorded CUDA graph. ``CUPY_TF32=1`` in the environment lets the
products use TF32, as everywhere in CuPy.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gatecore import _checks
from gatecore.backends.common.layout import plan
from gatecore.backends.common.learner_checks import unsupported
from gatecore.backends.common.validation import cell_of
from gatecore.backends.cuda import launch
from gatecore.backends.cuda.engine import KERNELS, KernelEngine
from gatecore.backends.numpy.bptt import Pullback, Stack, run
from gatecore.backends.numpy.learner import ExplicitLearner
from gatecore.contracts.model import ModelSpec
from gatecore.mechanisms import Mechanism

cupy = launch.require()

Array = Any  # cupy.ndarray
Params = Mapping[str, Array] | Sequence[Mapping[str, Array]]


def lstm(
    params: Params,
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Array | None = None,
    zoneout: Any = None,
    return_cells: bool = False,
    kernels: str = "auto",
) -> tuple[Any, Any, Pullback | Stack]:
    """An LSTM over a whole sequence, and its pullback: as ``gatecore.backends.numpy.lstm``.

    Parameters
    ----------
    kernels : {"auto", "fused", "none"}
        "auto" uses the fused kernels where they serve, else array operations, and
        ``pullback.path`` says which ran; "fused" raises where they do not serve.

    Raises
    ------
    ValueError, TypeError
        As the NumPy backend; ValueError for ``kernels="fused"`` where they do not serve.
    """
    engine = _engine(kernels)
    return run(engine, "lstm", params, x, state, mechanism, resets, zoneout, return_cells)


def gru(
    params: Params,
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Array | None = None,
    zoneout: Any = None,
    kernels: str = "auto",
) -> tuple[Array, Any, Pullback | Stack]:
    """A GRU over a whole sequence, and its pullback: as ``gatecore.backends.numpy.gru``.

    ``kernels`` as in :func:`lstm`.
    """
    return run(_engine(kernels), "gru", params, x, state, mechanism, resets, zoneout)


def minimal(
    params: Params,
    x: Array,
    state: Any = None,
    mechanism: str | Mechanism = "UR",
    *,
    resets: Array | None = None,
    zoneout: Any = None,
    kernels: str = "auto",
) -> tuple[Array, Any, Pullback | Stack]:
    """The minimal gated cell over a sequence: as ``gatecore.backends.numpy.minimal``.

    ``kernels`` as in :func:`lstm`.
    """
    return run(_engine(kernels), "minimal", params, x, state, mechanism, resets, zoneout)


def why_not_fused(
    core: str, params: Mapping[str, Array], x: Array, mechanism: str | Mechanism = "UR"
) -> str | None:
    """Why "auto" would not use the fused kernels for one such layer; None where it would."""
    _checks.choice("core", core, ("lstm", "gru", "minimal"))
    layout = plan(cell_of(core, params, x, mechanism))
    return _engine("auto").reason(layout, x.shape[:2], x.dtype)


def release() -> None:
    """Free the memory and the recorded graphs that the backend keeps between calls."""
    launch.launcher().release()
    cupy.get_default_memory_pool().free_all_blocks()


class Learner(ExplicitLearner):
    """Trains a ``ModelSpec`` on a GPU: ``step``, ``evaluate``, ``gates``, ``state_dict``.

    Batches are NumPy's, and so is what ``gates`` and ``state_dict`` return; ``parameters`` are
    CuPy arrays. ``kernels`` as in :func:`lstm`. ``impl="reference"`` is ``kernels="none"``;
    ``impl="native"`` is refused, for the native library is the CPU's.
    """

    def __init__(
        self, spec: ModelSpec, *, kernels: str = "auto", impl: str = "auto", **settings: Any
    ) -> None:
        if impl == "reference":
            if kernels == "fused":
                raise ValueError("impl='reference' is without kernels, got kernels='fused'")
            kernels = "none"
        super().__init__(_engine(kernels), spec, impl=impl, **settings)

    def _copied(self, value: Array) -> np.ndarray:
        return cupy.asnumpy(value)


def _engine(kernels: str) -> KernelEngine:
    return launch.engine(cupy.cuda.runtime.getDevice(), _checks.choice("kernels", kernels, KERNELS))


__all__ = ["Learner", "gru", "lstm", "minimal", "release", "unsupported", "why_not_fused"]
