"""Vector-Jacobian products of the gate algebra, in closed form.

Each function takes the arguments of the function that it differentiates, then the cotangent of its
result, and returns the cotangents of the arguments, of equal shapes (...). Since the complement is
1 − value, the cotangent of a gate is one array: that of the value. Cotangents (a, b) of the two
sides, as a ``Gate(a, b)``, count as a − b.
"""

from typing import Any

from gatecore import _checks
from gatecore._namespace import Array, asarray, namespace
from gatecore.algebra import Gate, _gate, _softmax_weight, _sum_beyond, _vector, cumax, sigmoid


def sigmoid_vjp(logit: Array, cotangent: Gate | Array) -> Array:
    """The cotangent v·σ(x)·σ(−x) of the logit of :func:`gatecore.sigmoid`.

    >>> sigmoid_vjp(np.array([0.0, 20.0]), np.ones(2))
    array([2.50000000e-01, 2.06115361e-09])
    """
    gate = sigmoid(logit)
    return _of_value(cotangent) * gate.value * gate.complement


def cumax_vjp(logit: Array, cotangent: Gate | Array, axis: int = -1, downsize: int = 1) -> Array:
    """The cotangent of the logits of :func:`gatecore.cumax`.

    dz_k = p_k (Σ_{j≥k} v_j (1 − f_j) − Σ_{j<k} v_j f_j), with p the softmax, f the gate, and v
    summed over the C = ``downsize`` units that share an entry. The logit has n entries along
    ``axis``, the cotangent n·C, else ValueError, as by :func:`gatecore.cumax`.

    >>> cumax_vjp(np.zeros(2), np.array([1.0, 0.0]))
    array([ 0.25, -0.25])
    """
    logit, downsize = _vector(logit, axis), _checks.integer("downsize", downsize)
    xp, v = namespace(logit), _of_value(cotangent)
    if not getattr(v, "ndim", 0) or v.shape[axis] != logit.shape[axis] * downsize:
        raise ValueError(f"cotangent must have {logit.shape[axis] * downsize} entries along axis "
                         f"{axis}, one for each unit of the gate, got shape "
                         f"{tuple(getattr(v, 'shape', ()))}")  # fmt: skip
    z, v = xp.moveaxis(logit, axis, -1), xp.moveaxis(v, axis, -1)
    if downsize != 1:
        v = xp.sum(xp.reshape(v, (*z.shape, downsize)), axis=-1)
    weight, gate = _softmax_weight(xp, z), cumax(z)
    softmax = weight / xp.sum(weight, axis=-1, keepdims=True)
    after = xp.flip(xp.cumulative_sum(xp.flip(v * gate.complement, axis=-1), axis=-1), axis=-1)
    before = xp.flip(_sum_beyond(xp, xp.flip(v * gate.value, axis=-1)), axis=-1)
    return xp.moveaxis(softmax * (after - before), -1, axis)


def refine_vjp(forget: Gate | Array, refine: Gate | Array,
               cotangent: Gate | Array) -> tuple[Array, Array]:  # fmt: skip
    """The cotangents (df, dr) of the values of the arguments of :func:`gatecore.refine`.

    ∂g/∂f = 2(r f̄ + r̄ f) and ∂g/∂r = 2 f f̄; chained with :func:`sigmoid_vjp` they are the
    derivatives of Appendix C.

    >>> refine_vjp(np.array([0.5]), np.array([1.0]), np.array([1.0]))
    (array([1.]), array([0.5]))
    """
    f, r, v = _gate("forget", forget), _gate("refine", refine), _of_value(cotangent)
    d_forget = v * (2 * (r.value * f.complement + r.complement * f.value))
    return d_forget, v * (2 * f.value * f.complement)


def master_vjp(
    master_forget: Gate | Array, master_input: Gate | Array, forget: Gate | Array,
    input: Gate | Array, forget_cotangent: Gate | Array, input_cotangent: Gate | Array,
) -> tuple[Array, Array, Array, Array]:  # fmt: skip
    """The cotangents (dF, dI, df, di) of the values of the arguments of :func:`gatecore.master`.

    With a and b the cotangents of f̂ and î: dF = a(Ī + f I) − b I ī, dI = b(F̄ + i F) − a F f̄,
    df = a F I, di = b F I.

    >>> [float(d) for d in master_vjp(0.75, 0.5, 1.0, 0.0, 1.0, 0.0)]
    [1.0, 0.0, 0.375, 0.0]
    """
    big_f, big_i = _gate("master_forget", master_forget), _gate("master_input", master_input)
    f, i = _gate("forget", forget), _gate("input", input)
    a, b = _of_value(forget_cotangent), _of_value(input_cotangent)
    overlap = big_f.value * big_i.value
    return (a * (big_i.complement + f.value * big_i.value) - b * (big_i.value * i.complement),
            b * (big_f.complement + i.value * big_f.value) - a * (big_f.value * f.complement),
            a * overlap, b * overlap)  # fmt: skip


def _of_value(cotangent: Any) -> Array:
    if isinstance(cotangent, Gate):
        return cotangent.value - cotangent.complement
    return asarray("cotangent", cotangent)
