"""A test of the kernels on the device at hand: a sequence of three steps, against NumPy.

CUDA may be there and not work: a compiler newer than the driver, headers or a library that are
missing, a graph that cannot be replayed. Whoever launches the kernels runs this once per device.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gatecore.backends.numpy import bptt
from gatecore.cells import LSTM

Array = Any
# parameters, x and the output's cotangent, NumPy's, to the output, d_x and the gradients of the
# parameters in their order, also NumPy's
Run = Callable[[Mapping[str, Array], Array, Array], Sequence[Array]]

CELL = LSTM(3, 40, "UR")  # more units than a warp has threads
TIME, BATCH = 3, 2
CALLS = ("launched", "recorded", "replayed")
TOLERANCE, TF32_TOLERANCE = 1e-5, 5e-3


def failure(run: Run, tolerance: float = TOLERANCE) -> str | None:
    """Why the device does not compute the sequence; None if it does, three times.

    The first call launches kernels, the second may record them and the third replay them. The
    relative error of each result must be at most ``tolerance``.
    """
    for seed, call in enumerate(CALLS):
        try:
            params, x, d_output = _arguments(seed)
            results = run(params, x, d_output)
            largest = max(_error(*pair) for pair in zip(results, _expected(seed), strict=True))
        except Exception as error:  # noqa: BLE001 - whatever it is, the kernels don't work
            return f"a test of them failed when {call}: {type(error).__name__}: {error}"
        if not largest <= tolerance:
            return f"a test of them gave wrong numbers when {call}: relative error {largest:.1e}"
    return None


def _arguments(seed: int) -> tuple[dict[str, Array], Array, Array]:
    rng = np.random.default_rng(seed)
    params = {name: value.astype(np.float32) for name, value in CELL.init(rng).items()}
    x = rng.standard_normal((TIME, BATCH, CELL.input_size), np.float32)
    return params, x, rng.standard_normal((TIME, BATCH, CELL.hidden_size), np.float32)


@functools.cache
def _expected(seed: int) -> list[Array]:
    params, x, d_output = _arguments(seed)
    output, _, pullback = bptt.run(bptt.Engine(np), CELL.core, params, x, None, CELL.mechanism)
    d_params, d_x, _ = pullback(d_output)
    return [output, d_x, *d_params.values()]


def _error(result: Array, expected: Array) -> float:
    return float(np.linalg.norm(result - expected) / np.linalg.norm(expected))
