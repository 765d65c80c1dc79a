"""The gate algebra: a gate is a number in [0, 1] that carries its complement.

A unit whose forget gate is g remembers for 1/(1 − g) steps, so gates must come extremely close to
1, where ``1 - g`` in floating point is rounding error. A :class:`Gate` therefore has both sides,
and every function here sums and multiplies non-negative numbers: nothing cancels, also where torch
or JAX differentiates. Arguments are arrays of NumPy, CuPy, torch or JAX, or SymPy expressions, and
their shapes (...) broadcast. Where a gate is expected, an array a in [0, 1] stands for
``Gate(a, 1 - a)``. What is neither an array nor a number, or not real floating, raises TypeError.
"""

from typing import Any, NamedTuple

import numpy as np

from gatecore import _checks
from gatecore._namespace import Array, asarray, constant, is_symbolic, logistic, namespace, paired


class Gate(NamedTuple):
    """A gate and its complement: two arrays of equal shape, in [0, 1], that sum to 1.

    Both are accurate to a few units in the last place, also where the other one is nearly 1.

    >>> float(sigmoid(40.0).complement)  # 1 - sigmoid(40.0).value would be 0
    4.248354255291589e-18
    """

    value: Array
    complement: Array


def negate(a: Gate | Array) -> Gate:
    """The complementary gate 1 − a (NOT): the two sides (...) exchanged.

    >>> negate(np.array([0.25]))
    Gate(value=array([0.75]), complement=array([0.25]))
    """
    a = _gate("a", a)
    return Gate(a.complement, a.value)


def both(a: Gate | Array, b: Gate | Array) -> Gate:
    """The product a·b of two gates (...) (AND), with complement ā + a·b̄.

    >>> both(np.array([0.5]), 0.25)
    Gate(value=array([0.125]), complement=array([0.875]))
    >>> almost = sigmoid(40.0)
    >>> float(both(almost, almost).complement)  # 1 - value would be 0
    8.496708510583178e-18
    """
    a, b = _gate("a", a), _gate("b", b)
    value = a.value * b.value
    return _result(value, a.complement + a.value * b.complement, value)


def either(a: Gate | Array, b: Gate | Array) -> Gate:
    """The probabilistic sum a + ā·b of two gates (...) (OR), with complement ā·b̄.

    >>> either(np.array([0.5]), 0.25)
    Gate(value=array([0.625]), complement=array([0.375]))
    """
    return negate(both(negate(a), negate(b)))


def mix(selector: Gate | Array, high: Gate | Array, low: Gate | Array) -> Gate:
    """The interpolation s·high + s̄·low of two gates (...) by a third, s, and of the complements.

    >>> mix(np.array([0.25]), 1.0, 0.5)
    Gate(value=array([0.625]), complement=array([0.375]))
    """
    s, high, low = _gate("selector", selector), _gate("high", high), _gate("low", low)
    return _result(s.value * high.value + s.complement * low.value,
                   s.value * high.complement + s.complement * low.complement)  # fmt: skip


def timescale(gate: Gate | Array) -> Array:
    """The characteristic timescale 1/(1 − g) of a gate (...) in steps, in [1, ∞] (Section 2.2).

    >>> round(float(timescale(sigmoid(6.0))), 9)
    404.428793493
    """
    with np.errstate(divide="ignore", over="ignore"):  # infinite at 1
        return 1 / _gate("gate", gate).complement


def sigmoid(logit: Array) -> Gate:
    """The logistic gate (σ(x), σ(−x)) of logits (...), accurate to a few ulp (equations 2, 10).

    >>> sigmoid(np.array([0.0, -40.0])).value
    array([5.00000000e-01, 4.24835426e-18])
    """
    logit = asarray("logit", logit)
    return _result(*logistic(namespace(logit), logit))


def cumax(logit: Array, axis: int = -1, downsize: int = 1) -> Gate:
    """The ordered gate cumsum(softmax(x)) of the ON-LSTM (equations 19, 28).

    Its values rise along ``axis`` and never exceed 1; the complement is the sum of the later
    entries, not ``1 - value``. The last value is exactly 1: that unit is never forgotten, and with
    a tied input gate it is never written. ``downsize`` is C of Appendix B.4: each of the n entries
    along ``axis`` is repeated C times, so that unit k of n·C takes entry k // C. ValueError if
    ``logit`` is a scalar or has no entries along ``axis``, or ``downsize`` is below 1.

    >>> cumax(np.zeros(4)).value
    array([0.25, 0.5 , 0.75, 1.  ])
    >>> cumax(np.zeros(2), downsize=2).complement
    array([0.5, 0.5, 0. , 0. ])
    """
    logit = _vector(logit, axis)
    downsize = _checks.integer("downsize", downsize)
    xp = namespace(logit)
    inner = axis not in (-1, logit.ndim - 1)  # torch.func.vmap has no rule for moveaxis
    weight = _softmax_weight(xp, xp.moveaxis(logit, axis, -1) if inner else logit)
    below, beyond = xp.cumulative_sum(weight, axis=-1), _sum_beyond(xp, weight)
    gate = _result(below / (below + beyond), beyond / (below + beyond))
    if inner:
        gate = Gate(*(xp.moveaxis(side, -1, axis) for side in gate))
    return spread(gate, downsize, axis)


def spread(gate: Gate, downsize: int, axis: int = -1) -> Gate:
    """The gate with each entry repeated ``downsize`` times along ``axis`` (Appendix B.4)."""
    if downsize == 1:
        return gate
    xp = namespace(*gate)
    return Gate(*(xp.repeat(side, downsize, axis=axis) for side in gate))


def logit(gate: Gate | Array) -> Array:
    """The inverse sigmoid log(g / (1 − g)) of a gate (...), accurate at ½ and at both ends.

    >>> float(logit(sigmoid(-30.0)))
    -30.0
    """
    value, complement = (asarray("gate", side) for side in _gate("gate", gate))
    xp = namespace(value, complement)
    if is_symbolic(value):
        return xp.log(value / complement)
    # g - (1 - g), of a plain array without rounding 1 - g first
    difference = value - complement if isinstance(gate, Gate) else 2 * (value - 0.5)
    central = xp.abs(difference) < 0.5
    near_half = 2 * xp.atanh(xp.where(central, difference, difference * 0))
    with np.errstate(divide="ignore"):
        return xp.where(central, near_half, xp.log(value) - xp.log(complement))


def refine(forget: Gate | Array, refine: Gate | Array) -> Gate:
    """The effective gate g = r·(1 − (1 − f)²) + (1 − r)·f² (equations 12, 16).

    The refine gate r chooses within the band f ± f(1 − f): ``mix(r, either(f, f), both(f, f))``,
    which is f(f + 2 r f̄) with complement f̄(f̄ + 2 r̄ f). Both are gates or arrays (...).

    >>> round(float(refine(0.9, 1.0).value), 12)  # the band around 0.9 ends at 0.99
    0.99
    """
    f, r = _gate("forget", forget), _gate("refine", refine)
    return _result(f.value * (f.value + 2 * r.value * f.complement),
                   f.complement * (f.complement + 2 * r.complement * f.value))  # fmt: skip


def master(
    master_forget: Gate | Array, master_input: Gate | Array, forget: Gate | Array,
    input: Gate | Array,
) -> tuple[Gate, Gate]:  # fmt: skip
    """The effective forget and input gates of the ON-LSTM (equations 21-23).

    With ω = F·I of the master gates and f, i the inner ones, all gates or arrays (...), the paper's
    f̂ = f·ω + (F − ω) is F(Ī + f·I), and î is I(F̄ + i·F).

    >>> forget, input = master(0.75, 0.5, 1.0, 0.0)
    >>> float(forget.value), float(input.value)
    (0.75, 0.125)
    """
    big_f, big_i = _gate("master_forget", master_forget), _gate("master_input", master_input)
    effective_forget = both(big_f, either(negate(big_i), forget))
    return effective_forget, both(big_i, either(negate(big_f), input))


def _vector(logit: Array, axis: int) -> Array:
    logit = asarray("logit", logit)
    if not getattr(logit, "ndim", 0):
        raise ValueError("logit must have an axis to sum along, got a scalar: pass an array")
    if not -logit.ndim <= axis < logit.ndim:
        raise ValueError(f"axis={axis} is no axis of logit, of shape {tuple(logit.shape)}: pass "
                         f"one from {-logit.ndim} to {logit.ndim - 1}")  # fmt: skip
    if not logit.shape[axis]:
        raise ValueError(f"logit must have at least one entry along axis {axis}, got shape "
                         f"{tuple(logit.shape)}")  # fmt: skip
    return logit


def _gate(name: str, value: Any) -> Gate:
    if isinstance(value, Gate):
        return value
    value = asarray(name, value)
    return Gate(value, 1 - value)


def _result(*sides: Array) -> Gate:
    return Gate(*paired(*sides))


def _softmax_weight(xp: Any, z: Array) -> Array:
    return xp.exp(z - constant(xp.max(z, axis=-1, keepdims=True)))


def _sum_beyond(xp: Any, x: Array) -> Array:
    """Σ_{j > k} x_j along the last axis, summed from the far end, so without cancellation."""
    from_end = xp.cumulative_sum(xp.flip(x, axis=-1), axis=-1, include_initial=True)
    return xp.flip(from_end[..., :-1], axis=-1)
