"""Explicit vector-Jacobian products of the gate algebra.

Each function takes the arguments of the function it differentiates, then the cotangent of its
result, and returns the cotangents of the arguments. Since the complement is 1 − value, a cotangent
of a gate is one number: that of the value. Where the two sides received cotangents (a, b) of their
own, as a ``Gate(a, b)``, they count as a − b.
"""

from typing import Any

from gatecore import _checks
from gatecore._namespace import Array, asarray, namespace
from gatecore.algebra import (
    Gate,
    _gate,
    _softmax_weight,
    _sum_beyond,
    _sum_upto,
    _vector,
    cumax,
    sigmoid,
)


def sigmoid_vjp(logit: Array, cotangent: Gate | Array) -> Array:
    """Cotangent of the logit of :func:`gatecore.sigmoid`: v·σ(x)·σ(−x)."""
    gate = sigmoid(logit)
    return _of_value(cotangent) * gate.value * gate.complement


def cumax_vjp(logit: Array, cotangent: Gate | Array, axis: int = -1, downsize: int = 1) -> Array:
    """Cotangent of the logits of :func:`gatecore.cumax`.

    dz_k = p_k (Σ_{j≥k} v_j (1 − f_j) − Σ_{j<k} v_j f_j), with p the softmax, f the gate, and v
    summed over the C = ``downsize`` units that share an entry.

    Parameters
    ----------
    logit : array with n entries along ``axis``
    cotangent : Gate or array with n·C entries along ``axis``
    """
    logit, downsize = _vector(logit, axis), _checks.integer("downsize", downsize)
    xp, v = namespace(logit), _of_value(cotangent)
    if not getattr(v, "ndim", 0) or v.shape[axis] != logit.shape[axis] * downsize:
        raise ValueError(
            f"cotangent must have {logit.shape[axis] * downsize} entries along axis {axis}, "
            f"got shape {getattr(v, 'shape', ())}"
        )
    z, v = xp.moveaxis(logit, axis, -1), xp.moveaxis(v, axis, -1)
    if downsize != 1:
        v = xp.sum(xp.reshape(v, (*z.shape, downsize)), axis=-1)
    weight, gate = _softmax_weight(xp, z), cumax(z)
    softmax = weight / xp.sum(weight, axis=-1, keepdims=True)
    after = xp.flip(_sum_upto(xp, xp.flip(v * gate.complement, axis=-1)), axis=-1)
    before = xp.flip(_sum_beyond(xp, xp.flip(v * gate.value, axis=-1)), axis=-1)
    return xp.moveaxis(softmax * (after - before), -1, axis)


def refine_vjp(
    forget: Gate | Array, refine: Gate | Array, cotangent: Gate | Array
) -> tuple[Array, Array]:
    """Cotangents of the two arguments' values of :func:`gatecore.refine`.

    ∂g/∂f = 2(r f̄ + r̄ f) and ∂g/∂r = 2 f f̄; chained with :func:`sigmoid_vjp` they are the
    derivatives of Appendix C.
    """
    f, r, v = _gate("forget", forget), _gate("refine", refine), _of_value(cotangent)
    return (
        v * (2 * (r.value * f.complement + r.complement * f.value)),
        v * (2 * f.value * f.complement),
    )


def master_vjp(
    master_forget: Gate | Array,
    master_input: Gate | Array,
    forget: Gate | Array,
    input: Gate | Array,
    forget_cotangent: Gate | Array,
    input_cotangent: Gate | Array,
) -> tuple[Array, Array, Array, Array]:
    """Cotangents of the four arguments' values of :func:`gatecore.master`.

    With a and b the cotangents of f̂ and î: dF = a(Ī + f I) − b I ī, dI = b(F̄ + i F) − a F f̄,
    df = a F I, di = b F I.
    """
    big_f, big_i = _gate("master_forget", master_forget), _gate("master_input", master_input)
    f, i = _gate("forget", forget), _gate("input", input)
    a, b = _of_value(forget_cotangent), _of_value(input_cotangent)
    overlap = big_f.value * big_i.value
    return (
        a * (big_i.complement + f.value * big_i.value) - b * (big_i.value * i.complement),
        b * (big_f.complement + i.value * big_f.value) - a * (big_f.value * f.complement),
        a * overlap,
        b * overlap,
    )


def _of_value(cotangent: Any) -> Array:
    if isinstance(cotangent, Gate):
        return cotangent.value - cotangent.complement
    return asarray("cotangent", cotangent)
