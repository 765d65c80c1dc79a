"""A recurrent layer made from one of Keras': its settings, and the weights that both have."""

from typing import Any

import numpy as np
from keras import ops

from gatecore.backends.keras.weights import columns
from gatecore.cells import CELLS
from gatecore.mechanisms import REFINE_SLOTS, Mechanism

# sets what the mechanism sets, or has no effect on results
_DROPPED = ("bias_initializer", "unit_forget_bias", "unroll")


def from_keras(kind: type[Any], source: type[Any], layer: Any, mechanism: str | Mechanism) -> Any:
    """A layer of class ``kind`` with the settings and weights of ``layer``, of class ``source``."""
    if not isinstance(layer, source):
        raise TypeError(f"layer must be a keras.layers.{source.__name__}, got "
                        f"{type(layer).__name__}")  # fmt: skip
    config = {k: v for k, v in layer.get_config().items() if k not in _DROPPED}
    new = kind(mechanism=mechanism, **config)
    standard = CELLS[new.core](1, new.units, "standard")
    slots = CELLS[new.core](1, new.units, new.mechanism).slots
    # the logits of an ordered gate mean something else than those of a sigmoid
    shared = {name for name, _ in standard.slots} - set(new.mechanism.ordered_slots)
    new.initialised = tuple(name for name, _ in slots if name not in shared)
    if layer.built:
        new.build_from_config(layer.get_build_config())
        _copy(new, layer, shared.intersection(dict(slots)))
    return new


def _copy(new: Any, layer: Any, shared: set[str]) -> None:
    """Copy the columns of the slots ``shared`` to the weights of ``new``."""
    target, mechanism = columns(new.cell.neutral), new.mechanism
    source = columns(CELLS[new.core](1, new.units, "standard"))
    values = []
    for pair in zip(new.weights, layer.weights, strict=False):  # new may have mechanism_code, too
        value, old = (np.array(ops.convert_to_numpy(variable)) for variable in pair)
        for slot in shared:
            value[..., target[slot]] = old[..., source[slot]]
        values.append(value)
    for gate, slot in REFINE_SLOTS.items():
        if new.cell.use_bias and slot in target and mechanism.refine_bias == "opposed":
            bias = values[-1].reshape(-1, new.cell.neutral.rows)  # a view
            bias[0, target[slot]] = -bias[:, target[gate]].sum(axis=0)
    for variable, value in zip(new.weights, values, strict=False):
        variable.assign(value)
