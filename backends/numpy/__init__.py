"""The NumPy backend: whole sequences by manual backpropagation through time.

Needs nothing but NumPy; in float32 the native library runs where it was built. Every mechanism,
float32 and float64. What a call returns is the caller's.
"""

from gatecore.backends.common.learner_checks import unsupported
from gatecore.backends.numpy.functional import (
    Learner,
    gru,
    layer_vjp,
    lstm,
    mingru,
    minimal,
    release,
)

__all__ = ["Learner", "gru", "layer_vjp", "lstm", "mingru", "minimal", "release", "unsupported"]
