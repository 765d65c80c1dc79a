"""The refusal of forward mode by layers that have a backward pass alone.

JAX's own error does not name the layer, and where a compiled function is differentiated it is
raised outside of the layer's call. So each argument passes an identity, whose tangents pass an
identity of their own: reverse mode transposes that, and only forward mode evaluates it.
"""

from typing import Any, Never

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

_argument = Primitive("gatecore_reverse_mode_argument")
_tangent = Primitive("gatecore_reverse_mode_tangent")


def reverse_mode_only(arrays: Any) -> Any:
    """The identity of a tree of arrays; TypeError where forward mode evaluates its tangents."""
    return jax.tree.map(_argument.bind, arrays)


def _refuse(*_: Any, **__: Any) -> Never:
    raise TypeError("forward mode (jax.jvp, jax.jacfwd) needs autodiff=True, with which "
                    "JAX differentiates the scan")  # fmt: skip


def _jvp(primals: Any, tangents: Any) -> Any:
    (primal,), (tangent,) = primals, tangents  # as of a custom derivative, the next one is JAX's
    return primal, tangent if type(tangent) is ad.Zero else _tangent.bind(tangent)


_argument.def_impl(lambda array: array)
_argument.def_abstract_eval(lambda array: array)
ad.primitive_jvps[_argument] = _jvp
batching.primitive_batchers[_argument] = lambda args, axes: (_argument.bind(*args), axes[0])
mlir.register_lowering(_argument, lambda _, array: [array])

_tangent.def_impl(_refuse)
_tangent.def_abstract_eval(lambda tangent: tangent)
ad.deflinear2(_tangent, lambda cotangent, _: [cotangent])
batching.primitive_batchers[_tangent] = _refuse
mlir.register_lowering(_tangent, _refuse)
