"""The JAX backend: pure functions of whole sequences, cells for flax, and a ``Learner``.

``lstm``, ``gru``, ``minimal`` and ``mingru`` need JAX alone; flax and optax are imported with the
first use of a cell, of ``GateUnit``, of ``Learner``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from gatecore.backends.common.learner_checks import unsupported
from gatecore.backends.jax.library_call import native_call
from gatecore.backends.jax.parameters import init
from gatecore.backends.jax.sequence import (
    gru,
    implementation,
    layer_vjp,
    lstm,
    mingru,
    minimal,
    minimal_parallel,
)

if TYPE_CHECKING:
    from gatecore.backends.jax.conversion import convert
    from gatecore.backends.jax.learner import Learner
    from gatecore.backends.jax.modules import GateUnit, GRUCell, LSTMCell, MinGRUCell, MinimalCell

_MODULES = {**dict.fromkeys(("GRUCell", "GateUnit", "LSTMCell", "MinGRUCell", "MinimalCell"),
                            "modules"),
            "Learner": "learner", "convert": "conversion"}  # fmt: skip

__all__ = [
    "GRUCell", "GateUnit", "LSTMCell", "Learner", "MinGRUCell", "MinimalCell", "convert", "gru",
    "implementation", "init", "layer_vjp", "lstm", "mingru", "minimal", "minimal_parallel",
    "native_call", "unsupported",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
