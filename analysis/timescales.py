"""Initial timescales in steps: quantiles and samples for every mechanism (Table 4).

The initial timescale of a unit is that of its effective forget gate at zero pre-activation, so it
depends on the biases alone. Distributions are over the units of one layer.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

import gatecore
from gatecore import Gate, Mechanism, init
from gatecore.analysis import _refine_distribution
from gatecore.analysis._arrays import Floats, in_unit_interval


def timescale_quantile(mechanism: str | Mechanism, size: int, u: ArrayLike) -> Floats:
    """Quantile function of a mechanism's initial timescale (Table 4 and its combinations).

    A float64 array (...) of steps, in [1, ∞]; infinite for the last unit of ordered gates, which
    never forgets. ``u`` (...), in [0, 1], is the fraction of the units below the quantile. ``size``
    is the hidden size d of the layer, at least 1: the range [1/d, 1 − 1/d] of uniform gates, the
    default T_max of chrono gates and, divided by C, the number of ordered gates. ValueError if u is
    not in [0, 1], if the mechanism does not allow ``size``, or if it combines chrono biases with an
    independent uniform refine gate: that distribution has no closed form, use
    :func:`sample_timescales`.

    >>> timescale_quantile("U", 256, [0.25, 0.5, 0.75]).round(4)
    array([1.3368, 2.    , 3.969 ])
    >>> timescale_quantile("UR", 256, 0.75).round(4)
    np.float64(4.4408)
    """
    mechanism = gatecore.mechanism(mechanism)
    mechanism.validate(size)
    u = in_unit_interval("u", u, "divide percentages by 100")
    if independent_refine(mechanism) and size > 2:
        gate = _independent_refine_quantile(mechanism, size, u)
    else:
        gate = effective_gate(mechanism, main_gate_quantile(mechanism, size, u))
    return gatecore.timescale(gate)[()]


def main_gate_quantile(mechanism: Mechanism, size: int, u: Floats) -> Gate:
    """Quantile function of the main gate: the forget gate, or the master forget gate."""
    if mechanism.activation == "cumax":
        n = size // mechanism.downsize if mechanism.auxiliary == "master" else size
        rank = np.clip(np.ceil(u * n), 1, n)
        return Gate(rank / n, (n - rank) / n)
    if mechanism.initial == "uniform":
        bias = init.uniform_quantile(u, size)
    elif mechanism.initial == "constant":
        bias = np.full(u.shape, mechanism.forget_bias)
    elif mechanism.t_max is None:
        bias = init.chrono_unbounded_quantile(u)
    else:
        bias = init.chrono_quantile(u, chrono_span(mechanism, size))
    return gatecore.sigmoid(bias)


def chrono_span(mechanism: Mechanism, size: int | None) -> float:
    """T_max of chrono biases in steps; ``t_max="hidden"`` needs the hidden size."""
    t_max = size if mechanism.t_max == "hidden" else mechanism.t_max
    if t_max is None:
        raise ValueError(f"mechanism {mechanism.name!r} takes t_max from the hidden size, got "
                         "size=None: give `size`, or a mechanism with a number as "
                         "t_max")  # fmt: skip
    return float(t_max)


def effective_gate(mechanism: Mechanism, main: Gate) -> Gate:
    """The initial effective forget gate of units with this main gate.

    It increases with the main gate, so it maps quantiles to quantiles. The other gates have their
    initial biases; an independent refine gate is set to ½.
    """
    half = Gate(0.5 + 0 * main.value, 0.5 + 0 * main.value)
    gates = {"forget": main}
    if mechanism.auxiliary == "refine":
        gates["refine"] = half
        if mechanism.refine_bias == "opposed":
            ordered = mechanism.activation == "cumax"  # its bias is the same for all units
            bias = np.full(main.value.shape, mechanism.forget_bias)
            gates["refine"] = gatecore.negate(gatecore.sigmoid(bias) if ordered else main)
    if mechanism.auxiliary == "master":
        fixed = mechanism.activation == "sigmoid" and mechanism.initial == "constant"
        opposite = half if fixed else gatecore.negate(main)
        gates = {"forget": half, "input": half, "master_forget": main, "master_input": opposite}
    return dataclasses.replace(mechanism, downsize=1).combine(gates)[0]


def sample_timescales(mechanism: str | Mechanism, size: int, rng: np.random.Generator | int,
                      n: int) -> Floats:  # fmt: skip
    """Sample of n initial timescales, from the biases that ``Mechanism.biases`` draws.

    A float64 array (n,) of steps, in [1, ∞]. ``size`` is the hidden size of the layers; they are
    drawn whole, and of the last one a random subset of the units is returned. ``rng`` is a
    generator or a seed. ValueError if the mechanism does not allow ``size``.

    >>> steps = sample_timescales("UR", 256, 0, 10_000)
    >>> steps.shape, float(np.median(steps).round(1))
    ((10000,), 2.0)
    """
    mechanism = gatecore.mechanism(mechanism)
    rng = np.random.default_rng(rng)
    layers = [mechanism.biases("lstm", size, rng) for _ in range(-(-n // size))]
    logits = {name: np.stack([biases[name] for biases in layers]) for name in layers[0]}
    steps = gatecore.timescale(mechanism.gates(logits)[0])
    remainder = n - (len(layers) - 1) * size
    return np.concatenate([steps[:-1].ravel(), rng.permutation(steps[-1])[:remainder]])


def independent_refine(mechanism: Mechanism) -> bool:
    """Whether the refine gate's bias is drawn independently of the main gate's."""
    return mechanism.auxiliary == "refine" and mechanism.refine_bias == "uniform"


def _independent_refine_quantile(mechanism: Mechanism, size: int, u: Floats) -> Gate:
    """Quantile of refine(f, r) with r uniform in [1/size, 1 − 1/size] and independent of f."""
    edge = 1 / size
    if mechanism.activation == "cumax":
        return _refine_distribution.ordered_quantile(size, edge, u)
    if mechanism.initial == "constant":
        refine = gatecore.sigmoid(init.uniform_quantile(u, size))
        return gatecore.refine(gatecore.sigmoid(np.full(u.shape, mechanism.forget_bias)), refine)
    if mechanism.initial == "uniform":
        return _refine_distribution.uniform_quantile(edge, u)
    raise ValueError(f"mechanism {mechanism.name!r} combines chrono biases with an independent "
                     "uniform refine gate: its quantiles have no closed form; use "
                     "sample_timescales")  # fmt: skip
