"""Layer normalization of one time step's rows and its derivative, in place.

This is ``gatecore.normalization.layer_norm`` written with ``out=``, as ``gating`` writes the gates.
"""

from typing import Any

from gatecore.backends.common.layout import Layout
from gatecore.normalization import EPSILON

Array = Any


class LayerNorm:
    """Normalizes rows (batch, width), with a ``gain`` and perhaps a ``bias`` (width,).

    ``normalized`` (time, batch, width) and ``slope`` (time, batch, 1) are saved: (x − μ)/σ and 1/σ.
    :meth:`backward` adds to ``d_gain`` and ``d_bias``.
    """

    def __init__(self, xp: Any, acquire: Any, gain: Array, bias: Array | None = None) -> None:
        self.xp, self.gain, self.bias = xp, gain, bias
        self.normalized, self.slope = acquire(len(gain)), acquire(1)
        self.row, self.column = acquire(len(gain), steps=False), acquire(1, steps=False)
        self.reset_gradients()

    def reset_gradients(self) -> None:
        """Set ``d_gain`` and ``d_bias`` to zero."""
        self.d_gain, self.d_bias = (self.xp.zeros_like(self.gain) for _ in range(2))

    def forward(self, t: int, x: Array, out: Array) -> None:
        """The normalized rows of x (batch, width) at step t; ``out`` may be x."""
        xp, row, scale = self.xp, self.row, self.column
        normalized, slope = self.normalized[t], self.slope[t]
        xp.subtract(x, x[:, :1], out=normalized)
        xp.abs(normalized, out=row)
        xp.max(row, axis=1, keepdims=True, out=scale)
        xp.maximum(scale, 1, out=scale)
        xp.divide(normalized, scale, out=normalized)
        xp.mean(normalized, axis=1, keepdims=True, out=slope)
        xp.subtract(normalized, slope, out=normalized)
        xp.multiply(normalized, normalized, out=row)
        xp.mean(row, axis=1, keepdims=True, out=slope)
        xp.add(slope, EPSILON / scale / scale, out=slope)
        xp.sqrt(slope, out=slope)
        xp.divide(normalized, slope, out=normalized)
        xp.multiply(slope, scale, out=slope)
        xp.reciprocal(slope, out=slope)
        xp.multiply(normalized, self.gain, out=out)
        if self.bias is not None:
            xp.add(out, self.bias, out=out)

    def backward(self, t: int, d: Array, out: Array) -> None:
        """The cotangent (v − mean v − x̂·mean(v·x̂))/σ of x, v = gain·d; ``out`` may be d."""
        xp, row, mean, normalized = self.xp, self.row, self.column, self.normalized[t]
        self.d_bias += d.sum(0)
        xp.multiply(d, normalized, out=row)
        self.d_gain += row.sum(0)
        xp.multiply(row, self.gain, out=row)
        xp.mean(row, axis=1, keepdims=True, out=mean)
        xp.multiply(normalized, mean, out=row)
        xp.multiply(d, self.gain, out=out)
        xp.mean(out, axis=1, keepdims=True, out=mean)
        xp.subtract(out, mean, out=out)
        xp.subtract(out, row, out=out)
        xp.multiply(out, self.slope[t], out=out)


def layer_norms(xp: Any, acquire: Any, layout: Layout, params: Any) -> dict[str, LayerNorm]:
    """The normalizations of a layer by their gains' names: of the products, of the cell state."""
    gain, bias = (params[name][layout.input_rows] for name in ("norm_ih", "bias"))
    norms = {"norm_ih": LayerNorm(xp, acquire, gain, bias)}
    if "norm_hh" in params:
        norms["norm_hh"] = LayerNorm(xp, acquire, params["norm_hh"][layout.state_rows])
    if "norm_c" in params:
        norms["norm_c"] = LayerNorm(xp, acquire, params["norm_c"], params["norm_c_bias"])
    return norms
