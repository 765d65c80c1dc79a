"""The Array API namespace of an argument: of any array library, or of SymPy expressions.

Only frameworks that are already imported are considered, so importing gatecore loads none of them.
SymPy expressions have a namespace too, so that the proofs of ``gatecore.analysis`` run on the
functions that train.
"""

import functools
import sys
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_jax_namespace

from gatecore import _checks

_TORCH = "array_api_compat.torch"
Array = Any  # an array of any framework: the core imports none whose type it could name


def asarray(name: str, value: Any) -> Any:
    """A floating array or an expression as it is, a Python number as a float64 array."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return np.asarray(value, dtype=np.float64)
    if is_symbolic(value):
        return value
    if not hasattr(_checks.unmasked(name, value), "dtype"):
        raise TypeError(f"{name} must be an array or a number, got {type(value).__name__}")
    if not namespace(value).isdtype(value.dtype, "real floating"):
        raise TypeError(f"{name} must have a real floating dtype, got {value.dtype}")
    return value


def namespace(*arrays: Any) -> Any:
    """The Array API namespace that all ``arrays`` belong to, or that of SymPy expressions."""
    if any(is_symbolic(a) for a in arrays):
        return _symbolic(sys.modules["sympy"])
    torch, compat = sys.modules.get("torch"), sys.modules.get(_TORCH)
    if torch and compat and all(isinstance(a, torch.Tensor) for a in arrays):
        return compat  # torch.compile traces this, not the caches of array_namespace
    return array_namespace(*arrays)


def is_symbolic(value: Any) -> bool:
    """Whether ``value`` is a SymPy expression, or a NumPy object array of them."""
    sympy = sys.modules.get("sympy")
    return sympy is not None and (
        isinstance(value, sympy.Basic) or (isinstance(value, np.ndarray) and value.dtype == object)
    )


def logistic(xp: Any, x: Any) -> tuple[Any, Any]:
    """σ(x) and σ(−x), each to a few ulp at any x.

    torch and JAX have a sigmoid whose derivative is finite everywhere: a ``where`` over exp(−|x|)
    would have derivative 0 at 0, and 1 / (1 + exp(−x)) none (NaN) at −100 in float32.
    """
    if isinstance(xp, _Symbolic):
        return 1 / (1 + xp.exp(-x)), 1 / (1 + xp.exp(x))
    torch = xp is sys.modules.get(_TORCH)
    if torch or is_jax_namespace(xp):
        sigmoid = sys.modules["torch"].sigmoid if torch else sys.modules["jax"].nn.sigmoid
        return sigmoid(x), sigmoid(-x)
    # in float64: an exponential of float32 alone errs by 2.5 ulp, and a refined gate squares it
    small = xp.exp(-xp.abs(xp.astype(x, xp.float64)))
    near_one, near_zero = (xp.astype(y, x.dtype) for y in (1 / (1 + small), small / (1 + small)))
    positive = x >= 0
    return xp.where(positive, near_one, near_zero), xp.where(positive, near_zero, near_one)


def paired(value: Any, complement: Any, through: Any = None) -> tuple[Any, Any]:
    """Both sides of a gate, which torch and JAX then differentiate through the smaller one.

    The larger is 1 minus it: the chain rule would lose its derivative in rounding. ``through`` is
    the value where its derivative is accurate everywhere.
    """
    if not _differentiated(value) and not _differentiated(complement):
        return value, complement
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        return _jax_paired()(value, complement, through)
    if through is None:
        through = namespace(value).where(value < complement, value, -complement)
    change = through - constant(through)  # 0, with the derivative of the value
    return constant(value) + change, constant(complement) - change


@functools.cache
def _jax_paired() -> Any:
    """The identity of both sides, whose derivative costs nothing where none is taken."""
    jax = sys.modules["jax"]

    @jax.custom_jvp
    def pair(value: Any, complement: Any, through: Any) -> tuple[Any, Any]:
        return value, complement

    @pair.defjvp
    def jvp(primals: Any, tangents: Any) -> Any:
        (value, complement, _), (d_value, d_complement, d_through) = primals, tangents
        if d_through is None:
            d_through = jax.numpy.where(value < complement, d_value, -d_complement)
        return (value, complement), (d_through, -d_through)

    return pair


def constant(x: Any) -> Any:
    """``x`` without its derivative; ``x`` itself where its library has none."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and isinstance(x, torch.Tensor):
        return x.detach()
    return jax.lax.stop_gradient(x) if jax and isinstance(x, jax.Array) else x


def _differentiated(x: Any) -> bool:
    """Whether torch or JAX may differentiate what is computed from ``x``."""
    torch, jax = sys.modules.get("torch"), sys.modules.get("jax")
    if torch and isinstance(x, torch.Tensor):
        return (x.requires_grad or torch.compiler.is_compiling()
                or torch._C._functorch.maybe_current_level() is not None
                or torch.autograd.forward_ad._current_level >= 0)  # fmt: skip
    return jax is not None and isinstance(x, jax.core.Tracer)


class _Symbolic:
    """The namespace functions that the algebra calls, on SymPy expressions.

    Vectors of expressions are NumPy object arrays, for which NumPy's functions of shape work.
    """

    def __init__(self, sympy: Any) -> None:
        functions = sympy.exp, sympy.log, sympy.tanh, sympy.atanh
        self.exp, self.log, self.tanh, self.atanh = map(_elementwise, functions)
        self.moveaxis, self.flip, self.repeat = np.moveaxis, np.flip, np.repeat
        self.reshape, self.sum = np.reshape, np.sum

    @staticmethod
    def max(x: Any, **_: Any) -> int:
        """No shift: exact expressions cannot overflow."""
        return 0

    @staticmethod
    def cumulative_sum(x: Any, *, axis: int = -1, include_initial: bool = False) -> Any:
        total = np.cumsum(x, axis=axis)
        return np.concatenate([0 * x[..., :1], total], axis=-1) if include_initial else total


def _elementwise(function: Any) -> Any:
    over_arrays = np.vectorize(function, otypes=[object])
    return lambda x: over_arrays(x) if isinstance(x, np.ndarray) else function(x)


_symbolic = functools.cache(_Symbolic)
