"""The parameters of flax's LSTM and GRU cells, as packed parameters of "standard" and back.

flax's cells are of linen, which has a layer for each gate, or of nnx, whose ``OptimizedLSTMCell``
and ``GRUCell`` have one for all; their order is the packed one, i f g o and r z n.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from gatecore.cells import CELLS, Cell
from gatecore.mechanisms import REFINE_SLOTS

Array = jax.Array
Tree = Mapping[str, Any]


class _Layers(NamedTuple):
    gates: str  # in packed order; a layer is named after its side, i or h, and its gate
    biased: str  # the side whose layers have the bias


_LAYERS = {"lstm": _Layers("ifgo", "h"), "gru": _Layers("rzn", "i")}


def packed(params: Tree) -> tuple[str, dict[str, Array]] | None:
    """Core and packed parameters, from those of a cell of flax; None if they are no such."""
    if (found := _layers(params)) is None:
        return None
    core, layers = found
    result = {name: jnp.concatenate([layer["kernel"] for layer in layers[side]], axis=-1).T
              for side, name in (("i", "weight_ih"), ("h", "weight_hh"))}  # fmt: skip
    result["bias"] = jnp.concatenate([layer["bias"] for layer in layers[_LAYERS[core].biased]])
    if "bias_n" in CELLS[core](1, 1, "standard").parameter_shapes():
        zeros = jnp.zeros(result["weight_hh"].shape[1], result["bias"].dtype)
        result["bias_n"] = layers["h"][-1].get("bias", zeros)
    return core, result


def unpacked(core: str, params: Tree) -> dict[str, dict[str, Array]]:
    """The inverse of :func:`packed`: a layer for each gate, as in linen."""
    gates, biased = _LAYERS[core]
    layers: dict[str, dict[str, Array]] = {}
    for side, name in (("i", "weight_ih"), ("h", "weight_hh")):
        kernels = jnp.split(params[name].T, len(gates), axis=-1)
        layers |= {f"{side}{g}": {"kernel": k} for g, k in zip(gates, kernels, strict=True)}
    for gate, bias in zip(gates, jnp.split(params["bias"], len(gates)), strict=True):
        layers[f"{biased}{gate}"]["bias"] = bias
    if "bias_n" in params:
        layers["hn"]["bias"] = params["bias_n"]
    return layers


def joined(core: str, params: Tree) -> dict[str, dict[str, Array]]:
    """The inverse of :func:`packed`: one layer for all gates, as in nnx.

    ValueError for a GRU whose ``bias_n`` is not zero: nnx's has none.
    """
    layers = {"dense_i": {"kernel": params["weight_ih"].T},
              "dense_h": {"kernel": params["weight_hh"].T}}  # fmt: skip
    layers[f"dense_{_LAYERS[core].biased}"]["bias"] = params["bias"]
    if "bias_n" in params and jnp.any(params["bias_n"] != 0):
        raise ValueError("bias_n must be zero, since nnx.GRUCell has no bias of the state's part "
                         "of the candidate: linen's GRUCell has one")  # fmt: skip
    return layers


def adopt(cell: Cell, params: Tree, standard: Tree) -> dict[str, Array]:
    """``params`` with the weights of the slots that a cell of "standard" has, too.

    The logits of an ordered gate mean something else than those of a sigmoid: they stay.
    """
    source = CELLS[cell.core](cell.input_size, cell.hidden_size, "standard")
    result = dict(params)
    for name in ("weight_ih", "weight_hh", "bias"):
        slots, old = cell.split(params[name].T), source.split(standard[name].T)
        for slot in slots.keys() & old.keys() - set(cell.mechanism.ordered_slots):
            slots[slot] = old[slot]
        if name == "bias" and cell.mechanism.refine_bias == "opposed":
            slots |= {s: -slots[gate] for gate, s in REFINE_SLOTS.items() if s in slots}
        result[name] = jnp.concatenate(list(slots.values()), axis=-1).T
    return {**result, **{name: standard[name] for name in ("bias_n",) if name in standard}}


def _layers(params: Tree) -> tuple[str, dict[str, list[Tree]]] | None:
    """Core, and the layers of each side in packed order."""
    params = {name.removesuffix("_"): value for name, value in params.items()}  # if_ of nnx
    for core, (gates, biased) in _LAYERS.items():
        names = {side: [f"{side}{gate}" for gate in gates] for side in "ih"}
        if "bias" in params.get(f"dense_{biased}", ()):  # one layer for all gates
            names = {side: [f"dense_{side}"] for side in "ih"}
        if set(params) == {*names["i"], *names["h"]}:
            return core, {side: [params[name] for name in names[side]] for side in "ih"}
    return None
