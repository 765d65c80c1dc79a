"""Timescales at initialization, in steps: their quantiles and samples for every mechanism.

A mechanism's initial timescale is that of its effective forget gate over the units of one layer,
from the biases alone (zero pre-activation).
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate, Mechanism, init
from gatecore.analysis import _convolution

Floats = np.ndarray


def timescale_quantile(mechanism: str | Mechanism, size: int, u: ArrayLike) -> Floats:
    """The timescale (...) in steps below which a fraction u of a mechanism's units start.

    Parameters
    ----------
    mechanism : str or Mechanism
    size : int
        Hidden size of the layer: it sets the range of uniform gates, the default T_max of chrono
        gates and, divided by C, the number of ordered ones.
    u : array (...), in [0, 1]

    Returns
    -------
    float64 array (...)
        In [1, ∞]. Infinite for the dead unit of ordered gates.

    Raises
    ------
    ValueError
        If u is not in [0, 1], the mechanism does not fit the size, or it crosses chrono biases
        with an independent uniform refine gate: that law has no closed form; sample it.

    Examples
    --------
    >>> timescale_quantile("U", 256, [0.25, 0.5, 0.75]).round(4)
    array([1.3368, 2.    , 3.969 ])
    >>> timescale_quantile("UR", 256, 0.75).round(4)
    np.float64(2.8947)
    """
    row = gatecore.mechanism(mechanism)
    row.validate(size)
    u = np.asarray(u, dtype=np.float64)
    if not np.all((u >= 0) & (u <= 1)):
        raise ValueError("u must lie in [0, 1]")
    if _has_own_refine_law(row) and size > 2:
        gate = _independent_refine_quantile(row, size, u)
    else:
        gate = effective_gate(row, main_gate_quantile(row, size, u))
    return gatecore.timescale(gate)[()]


def main_gate_quantile(row: Mechanism, size: int, u: Floats) -> Gate:
    """Quantile of the main gate itself: f, or with master gates F."""
    if row.activation == "cumax":
        n = size // row.downsize if row.auxiliary == "master" else size
        rank = np.clip(np.ceil(u * n), 1, n)
        return Gate(rank / n, (n - rank) / n)
    if row.initial == "uniform":
        return gatecore.sigmoid(init.uniform_quantile(u, size))
    if row.initial == "constant":
        return gatecore.sigmoid(np.full(u.shape, row.forget_bias))
    if row.t_max is None:
        return gatecore.sigmoid(init.chrono_unbounded_quantile(u))
    return gatecore.sigmoid(init.chrono_quantile(u, chrono_span(row, size)))


def chrono_span(row: Mechanism, size: int | None) -> float:
    """T_max of chrono biases in steps; ``t_max="hidden"`` needs the size."""
    if row.t_max != "hidden":
        return float(row.t_max)  # type: ignore[arg-type]
    if size is None:
        raise ValueError(f"mechanism {row.name!r} takes t_max from the hidden size: give `size`")
    return float(size)


def effective_gate(row: Mechanism, main: Gate) -> Gate:
    """The initial effective forget gate of units with this main gate.

    It rises with the main gate, so it maps quantiles to quantiles. The other gates are as
    ``Mechanism.biases`` starts them; a refine gate with a law of its own is taken at ½.
    """
    half = Gate(0.5 + 0 * main.value, 0.5 + 0 * main.value)
    gates = {"forget": main}
    if row.auxiliary == "refine":
        gates["refine"] = half
        if row.refine_bias == "opposed":
            ordered = row.activation == "cumax"  # its −b is the same number for all units
            start = gatecore.sigmoid(np.full(main.value.shape, row.forget_bias))
            gates["refine"] = gatecore.negate(start if ordered else main)
    if row.auxiliary == "master":
        fixed = row.activation == "sigmoid" and row.initial == "constant"
        opposite = half if fixed else gatecore.negate(main)
        gates = {"forget": half, "input": half, "master_forget": main, "master_input": opposite}
    return dataclasses.replace(row, downsize=1).combine(gates)[0]


def sample_timescales(
    mechanism: str | Mechanism, size: int, rng: np.random.Generator | int, n: int
) -> Floats:
    """Initial timescales (n,) in steps of n units of layers with ``size`` hidden units.

    The biases are drawn by the mechanism itself, a layer at a time; of the last layer, random
    units are taken.

    Parameters
    ----------
    mechanism : str or Mechanism
    size : int
    rng : numpy.random.Generator or int
    n : int

    Examples
    --------
    >>> steps = sample_timescales("UR", 256, 0, 10_000)
    >>> steps.shape, float(np.median(steps).round(1))
    ((10000,), 2.0)
    """
    row = gatecore.mechanism(mechanism)
    rng = np.random.default_rng(rng)
    layers = -(-n // size)
    drawn = [row.biases("lstm", size, rng) for _ in range(layers)]
    logits = {name: np.stack([biases[name] for biases in drawn]) for name in drawn[0]}
    steps = gatecore.timescale(row.gates(logits)[0])
    kept = n - (layers - 1) * size
    return np.concatenate([steps[:-1].ravel(), rng.permutation(steps[-1])[:kept]])


def _has_own_refine_law(row: Mechanism) -> bool:
    return row.auxiliary == "refine" and row.refine_bias == "uniform"


def _independent_refine_quantile(row: Mechanism, size: int, u: Floats) -> Gate:
    """Quantile of refine(f, r) with r uniform in [1/size, 1 − 1/size] and independent of f."""
    edge = 1 / size
    if row.activation == "cumax":
        return _convolution.ordered_quantile(size, edge, u)
    if row.initial == "constant":
        refine = gatecore.sigmoid(init.uniform_quantile(u, size))
        return gatecore.refine(gatecore.sigmoid(np.full(u.shape, row.forget_bias)), refine)
    if row.initial == "uniform":
        return _convolution.uniform_quantile(edge, u)
    raise ValueError(
        f"mechanism {row.name!r} crosses chrono biases with an independent uniform refine gate: "
        "its quantiles have no closed form; use sample_timescales"
    )
