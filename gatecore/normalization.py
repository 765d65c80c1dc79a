"""Layer normalization, for arrays of any framework."""

from gatecore._namespace import Array, constant, namespace

EPSILON = 1e-5  # added to the variance


def layer_norm(x: Array, gain: Array, bias: Array | None = None) -> Array:
    """The normalized rows gain·(x − μ)/√(σ² + 1e-5) + bias (Ba et al. 2016).

    μ and σ² are the mean and the variance of the n entries along the last axis of x (..., n);
    ``gain`` and ``bias`` are (n,). Equal entries give 0 exactly, and no finite x overflows.

    >>> import numpy as np
    >>> layer_norm(np.array([[1.0, 3.0], [5.0, 5.0]]), np.ones(2)).round(3)
    array([[-1.,  1.],
           [ 0.,  0.]])
    """
    xp = namespace(x)
    # the result depends on neither this shift nor this scale: they count as constants
    centered = x - constant(x[..., :1])
    scale = constant(xp.max(xp.abs(centered), axis=-1, keepdims=True))
    scale = xp.where(scale > 1, scale, xp.ones_like(scale))
    centered = centered / scale
    centered = centered - xp.mean(centered, axis=-1, keepdims=True)
    variance = xp.mean(centered * centered, axis=-1, keepdims=True)
    normalized = centered / xp.sqrt(variance + EPSILON / scale / scale) * row(gain, x.ndim)
    return normalized if bias is None else normalized + row(bias, x.ndim)


def row(vector: Array, ndim: int) -> Array:
    """(width,) as (1, ..., width) of ``ndim`` axes: JAX can be set to refuse rank promotion."""
    return vector[(None,) * (ndim - 1) + (slice(None),)]
