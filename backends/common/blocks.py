"""The layers of a model, stacked or in residual blocks, as a function of any framework."""

from collections.abc import Callable, Mapping
from typing import Any

Array = Any


def apply_layers(
    parameters: Mapping[str, Array], count: int, residual: bool, x: Array,
    layer: Callable[[int, Array], Array], linear: Callable[[Array, Array, Array], Array],
    layer_norm: Callable[[Array, Array, Array], Array],
) -> Array:  # fmt: skip
    """The outputs of ``count`` layers for x (time, batch, features).

    ``layer(k, x)`` is the k-th recurrent layer. With ``residual`` each is in a block
    x + linear(layer(layer_norm(x))) and a layer normalization follows the last, with the
    ``parameters`` that :meth:`gatecore.ModelSpec.initial` names; "projection.weight", where there
    is one, comes first. ``linear`` and ``layer_norm`` take x, weight and bias.
    """

    def pair(name: str) -> tuple[Array, Array]:
        return parameters[f"{name}.weight"], parameters[f"{name}.bias"]

    if not residual:
        for k in range(count):
            x = layer(k, x)
        return x
    if "projection.weight" in parameters:
        x = linear(x, *pair("projection"))
    for k in range(count):
        inner = layer(k, layer_norm(x, *pair(f"blocks.{k}.norm")))
        x = x + linear(inner, *pair(f"blocks.{k}.linear"))
    return layer_norm(x, *pair("norm"))
