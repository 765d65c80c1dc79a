"""The layers around a recurrent core, and the losses: values with their pullbacks."""

from collections.abc import Callable
from typing import Any

from gatecore.backends.numpy.layer_norm import LayerNorm

Array = Any
Pull = Callable[..., Any]


def one_hot(xp: Any, tokens: Array, size: int, dtype: Any) -> Array:
    """One-hot vectors (..., size); zeros for -1, the last row."""
    return xp.eye(size + 1, size, dtype=dtype)[tokens]


def embedding(xp: Any, weight: Array, tokens: Array, rate: float,
              mask: Any = None) -> tuple[Array, Pull]:  # fmt: skip
    """Rows of ``weight`` (symbols, width), with dropout; the pullback sums into the rows."""
    factor = None if mask is None else _dropout(xp, weight.dtype, rate, mask)
    rows = weight[tokens]

    def pullback(d_rows: Array) -> Array:
        d_weight, d_rows = xp.zeros_like(weight), d_rows if factor is None else d_rows * factor
        xp.add.at(d_weight, tokens.reshape(-1), d_rows.reshape(-1, weight.shape[1]))
        return d_weight

    return rows if factor is None else rows * factor, pullback


def linear(xp: Any, weight: Array, bias: Array, x: Array) -> tuple[Array, Pull]:
    """x Wᵀ + b of x (..., inputs); the pullback returns (d_weight, d_bias, d_x)."""
    flat = x.reshape(-1, x.shape[-1])

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        d_flat = d_out.reshape(-1, weight.shape[0])
        return d_flat.T @ flat, d_flat.sum(0), (d_flat @ weight).reshape(x.shape)

    return (flat @ weight.T + bias).reshape(*x.shape[:-1], -1), pullback


def layer_norm(xp: Any, gain: Array, bias: Array, x: Array) -> tuple[Array, Pull]:
    """Layer normalization of x (..., width); the pullback returns (d_gain, d_bias, d_x)."""
    flat = x.reshape(1, -1, x.shape[-1])

    def acquire(width: int, steps: bool = True) -> Array:
        shape = flat.shape[:2] if steps else flat.shape[1:2]
        return xp.empty((*shape, width), dtype=x.dtype)

    norm, out = LayerNorm(xp, acquire, gain, bias), xp.empty_like(flat[0])
    norm.forward(0, flat[0], out)

    def pullback(d_out: Array) -> tuple[Array, Array, Array]:
        norm.reset_gradients()
        d_x = xp.empty_like(flat[0])
        norm.backward(0, d_out.reshape(d_x.shape), d_x)
        return norm.d_gain, norm.d_bias, d_x.reshape(x.shape)

    return out.reshape(x.shape), pullback


def _dropout(xp: Any, dtype: Any, rate: float, mask: Any) -> Array:
    """The factors of dropout where the bool array ``mask`` is false; their expectation is 1."""
    return xp.asarray(mask) / dtype.type(1 - rate)


def relu_dropout(xp: Any, x: Array, rate: float, mask: Any = None) -> tuple[Array, Pull]:
    """ReLU, then dropout where the bool array ``mask`` is false; the expectation is unchanged."""
    factor = (x > 0).astype(x.dtype)
    if mask is not None:
        factor *= _dropout(xp, x.dtype, rate, mask)
    return x * factor, lambda d_out: d_out * factor


def cross_entropy(xp: Any, logits: Array, targets: Array) -> tuple[dict[str, float], Pull]:
    """Mean over the scored targets (those ≥ 0) in nats, and the accuracy."""
    scored = targets >= 0
    count = int(scored.sum())
    shifted = logits - logits.max(-1, keepdims=True)
    log_total = xp.log(xp.exp(shifted).sum(-1, keepdims=True))
    picked = xp.where(scored, targets, 0)[..., None]
    log_p = xp.take_along_axis(shifted - log_total, picked, -1)[..., 0]
    right = (logits.argmax(-1) == targets) & scored
    metrics = {"loss": -float((log_p * scored).sum(dtype=xp.float64)) / max(count, 1),
               "accuracy": float(right.sum()) / max(count, 1), "count": count}  # fmt: skip

    def pullback() -> Array:
        d_logits = xp.exp(shifted - log_total)
        hit = xp.take_along_axis(d_logits, picked, -1)
        xp.put_along_axis(d_logits, picked, hit - 1, -1)
        return d_logits * (scored[..., None] / logits.dtype.type(max(count, 1)))

    return metrics, pullback


def squared_error(xp: Any, predicted: Array, targets: Array) -> tuple[dict[str, float], Pull]:
    """Mean squared error over all outputs."""
    difference = predicted - targets
    loss = float((difference**2).sum(dtype=xp.float64)) / difference.size
    return {"loss": loss, "count": difference.size}, lambda: difference * (2 / difference.size)


LOSSES = {"cross_entropy": cross_entropy, "squared_error": squared_error}
