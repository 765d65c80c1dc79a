"""The weights of a cell: their order, their initial values, and the mechanism that they record."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from gatecore.backends.common.layout import spans
from gatecore.backends.common.signature import (
    STANDARD_SIGNATURES,
    check_recorded,
    decode,
    encode,
    signature,
)
from gatecore.cells import Cell
from gatecore.mechanisms import Mechanism

CODE = "mechanism_code"


def keras_order(cell: Cell) -> list[str]:
    """The slots in the order of the weights' columns: Keras' GRU has its update gate first."""
    names = [name for name, _ in cell.slots]
    if "reset" in names:
        names.remove("reset")
        names.insert(1, "reset")
    return names


def columns(cell: Cell) -> dict[str, slice]:
    """The columns of each slot, in Keras' order."""
    return spans(keras_order(cell), dict(cell.slots))


def packed(cell: Cell, array: Any) -> Any:
    """``array`` (..., rows) with its columns in gatecore's order."""
    theirs = columns(cell)
    names = [name for name, _ in cell.slots]
    if names == list(theirs):
        return array
    return ops.concatenate([array[..., theirs[name]] for name in names], axis=-1)


def initial_bias(cell: Cell, shape: Sequence[int], seed: int) -> np.ndarray:
    """The mechanism's biases; a GRU's second row is 0."""
    biases = cell.mechanism.biases(cell.core, cell.hidden_size, np.random.default_rng(seed))
    values = np.zeros(shape)
    values[(0,) * (len(shape) - 1)] = np.concatenate([biases[n] for n in keras_order(cell)])
    return values


class MechanismCode(keras.Variable):
    """A weight that records the signature of a cell, and refuses to be assigned another one."""

    def __init__(self, core: str, mechanism: Mechanism, dtype: str) -> None:
        self.core, self.mechanism = core, mechanism
        self.code = np.asarray(encode(signature(core, mechanism)))
        super().__init__(lambda shape, dtype: ops.convert_to_tensor(self.code, dtype), dtype=dtype,
                         shape=self.code.shape, trainable=False, name=CODE)  # fmt: skip

    def assign(self, value: Any) -> Any:
        """Set the value, if it is the code of the same signature, to the exact code."""
        with contextlib.suppress(TypeError):  # JAX traces: the value is not known
            check_signature(self.core, self.mechanism, ops.convert_to_numpy(value))
            value = self.code
        return super().assign(value)


class Guarded:
    """A cell or a layer, which checks all weights before it changes one."""

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the values of all weights; ValueError for those of another mechanism."""
        self._check_weights(weights)
        super().set_weights(weights)  # type: ignore[misc]

    def _check_weights(self: Any, values: Sequence[Any]) -> None:
        code = np.asarray(values[-1]) if len(values) else np.empty(0)
        known = code.shape == np.shape(encode(signature(self.kind, self.mechanism)))
        check_signature(self.kind, self.mechanism, code if known else None)


def records(core: str, mechanism: Mechanism) -> bool:
    """Whether the weights record the mechanism: if they are not those of Keras' own layer."""
    return signature(core, mechanism) != STANDARD_SIGNATURES.get(core)


def check_signature(core: str, mechanism: Mechanism, code: np.ndarray | None) -> None:
    """Raise ValueError for weights that record another signature, or none where one is needed."""
    own = signature(core, mechanism)
    if code is None and records(core, mechanism):
        raise ValueError(f"the weights record no mechanism, this {core} has {mechanism.name!r}: "
                         "load weights of a layer with this mechanism, use "
                         "mechanism='standard', or make the layer by from_keras, which "
                         "copies those that both have")  # fmt: skip
    if code is not None:
        recorded = decode(np.ravel(code).tolist())
        check_recorded(recorded, own, mechanism, subject="the weights are", module="layer")
