"""The settings of cells and layers: their checks, and how a configuration holds them."""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import keras

from gatecore import _checks, mechanisms
from gatecore.mechanisms import MECHANISMS, Mechanism

BACKENDS = ("torch", "jax")
_OBJECTS = {"initializer": keras.initializers, "regularizer": keras.regularizers,
            "constraint": keras.constraints}  # fmt: skip
_WEIGHTS = ("kernel", "recurrent", "bias")
_DEFAULTS = {"kernel_initializer": "glorot_uniform", "recurrent_initializer": "orthogonal"}
# the settings of a cell that its configuration holds, but for the mechanism
PLAIN: tuple[str, ...] = ("units", "use_bias", "layer_norm", "dropout", "recurrent_dropout",
                          "seed")  # fmt: skip
OBJECTS = {f"{weight}_{kind}": module for weight in _WEIGHTS for kind, module in _OBJECTS.items()}
# arguments of Keras' layers with the one value that is supported, and why
_FIXED = {
    "activation": ("tanh", "the candidate is a tanh"),
    "recurrent_activation": ("sigmoid", "the gates are the mechanism's, and carry their "
                             "complement: choose another mechanism"),
    "reset_after": (True, "the reset gate acts after the product"),
    "unroll": (False, "a sequence is one operation, without a loop to unroll"),
}  # fmt: skip
_REFUSED = {
    "implementation": "a sequence is one operation: leave it out",
    "use_cudnn": "the backend chooses the implementation: leave it out",
}


def check_backend() -> None:
    """Raise ValueError unless Keras runs on a backend that the layers support."""
    if (name := keras.backend.backend()) not in BACKENDS:
        raise ValueError("gatecore.backends.keras supports Keras' backends torch and jax, got "
                         f"{name!r}: set the environment variable KERAS_BACKEND before Keras is "
                         "imported")  # fmt: skip


def check_export() -> None:
    """Raise RuntimeError while Keras traces a model on torch for an ONNX file."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.jit.is_tracing() and torch.onnx.is_in_onnx_export():
        raise RuntimeError("a layer of gatecore cannot be exported to ONNX by Keras, whose trace "
                           "would fix the length of the sequence: use "
                           "model.export(path, format='torch')")  # fmt: skip


def check_fixed(settings: dict[str, Any]) -> None:
    """Remove Keras' arguments that can have one value only; ValueError for another one."""
    for name, reason in _REFUSED.items():
        if name in settings:
            raise ValueError(f"{name}={_checks.show(settings[name])} is not supported: {reason}")
    for name, (expected, reason) in _FIXED.items():
        value = settings.pop(name, expected)
        if value not in (expected, getattr(keras.activations, str(expected), expected)):
            raise ValueError(f"{name} must be {expected!r}, got {_checks.show(value)}: {reason}")


def check_not_recurrent(settings: dict[str, Any]) -> None:
    """Raise ValueError for arguments that a cell without recurrent weights does not have."""
    for name in settings:
        if name.startswith(("recurrent_", "activation", "reset_after")):
            reason = "candidate chooses" if name == "activation" else "there are no such weights"
            raise ValueError(f"{name}={_checks.show(settings[name])} is not supported: {reason}")


def mechanism_of(value: Any, units: int) -> Mechanism:
    """The mechanism of a name, a Mechanism or a configuration, which may have so many units."""
    mechanism = mechanisms.mechanism(Mechanism(**value) if isinstance(value, Mapping) else value)
    mechanism.validate(units)
    return mechanism


def mechanism_config(mechanism: Mechanism) -> str | dict[str, Any]:
    """The mechanism as JSON holds it: its name, or its fields if they are not the table's."""
    listed = MECHANISMS.get(mechanism.name) == mechanism
    return mechanism.name if listed else dataclasses.asdict(mechanism)


def pop_objects(keywords: dict[str, Any]) -> dict[str, Any]:
    """The initializers, regularizers and constraints of ``keywords``, from names or objects."""
    return {name: module.get(keywords.pop(name, _DEFAULTS.get(name)))
            for name, module in OBJECTS.items()}  # fmt: skip


def config_of(cell: Any) -> dict[str, Any]:
    """The settings of a cell as JSON holds them."""
    objects = {name: getattr(cell, name) for name in OBJECTS if name in cell.settings}
    return {"mechanism": mechanism_config(cell.mechanism),
            **{name: getattr(cell, name) for name in cell.settings if name not in OBJECTS},
            **{k: v and OBJECTS[k].serialize(v) for k, v in objects.items()}}  # fmt: skip
