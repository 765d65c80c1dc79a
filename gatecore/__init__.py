"""The gates of *Improving the Gating Mechanism of Recurrent Neural Networks* (Gu et al., 2020).

This package has the parts that all frameworks share: the algebra of gates that carry their
complement, its derivatives, the initial biases, the table of mechanisms, and the cells.
``gatecore.backends`` trains them.
"""

from gatecore import _moved as _moved  # registers the former import paths
from gatecore import cells, init
from gatecore.algebra import (
    Gate,
    both,
    cumax,
    either,
    logit,
    master,
    mix,
    negate,
    refine,
    sigmoid,
    timescale,
)
from gatecore.contracts.model import Batch, ModelSpec
from gatecore.mechanisms import MECHANISMS, Mechanism, mechanism
from gatecore.vjp import cumax_vjp, master_vjp, refine_vjp, sigmoid_vjp

__version__ = "0.1.0"  # the one place
__all__ = [
    "MECHANISMS", "Batch", "Gate", "Mechanism", "ModelSpec", "both", "cells", "cumax", "cumax_vjp",
    "either", "init", "logit", "master", "master_vjp", "mechanism", "mix", "negate", "refine",
    "refine_vjp", "sigmoid", "sigmoid_vjp", "timescale",
]  # fmt: skip
