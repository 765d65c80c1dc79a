"""Checks of a learner's model, batches, settings and states, on every backend."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gatecore._checks import number, unmasked
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.model import Batch, ModelSpec

Array = Any


def unsupported(spec: ModelSpec | AgentSpec) -> str | None:
    """Why a backend other than torch's cannot train the model; None if it can."""
    if isinstance(spec, AgentSpec):
        return "an agent is torch's: choose the torch backend"
    if spec.memory is not None:
        return f"core={spec.core!r} is torch's: choose the torch backend"
    if spec.adaptive:
        return f"adaptive={spec.adaptive} is torch's own softmax: choose the torch backend, or None"
    return None


def check_model(spec: ModelSpec) -> None:
    """Raise ValueError if a backend other than torch's cannot train the model."""
    if reason := unsupported(spec):
        raise ValueError(reason)


def check_batch(spec: ModelSpec, batch: Batch, streams: int | None) -> Batch:
    """The batch as NumPy arrays, after a check that it fits the model.

    With ``streams`` its sequences continue that many of the batch before.
    """
    inputs = check_inputs(spec, batch.inputs)
    targets = np.asarray(unmasked("batch.targets", batch.targets))
    unmasked("batch.resets", batch.resets)
    time, size = inputs.shape[:2]
    if spec.streams is not None and streams is not None and size != streams:
        raise ValueError(f"batch.inputs must hold {streams} sequences, which continue those of the "
                         f"batch before, got {size}")  # fmt: skip
    shape: tuple[int, ...] = (time if spec.read is None else min(spec.read, time), size)
    if spec.loss == "squared_error":
        shape = (*shape, spec.output_size)
    if targets.shape != shape:
        raise ValueError(f"batch.targets must have shape {shape}, got {targets.shape}")
    if spec.loss == "squared_error":
        _check_real("targets", targets)
    else:
        _check_symbols("targets", targets, spec.output_size, ", or be -1 where nothing is scored")
    return Batch(inputs, targets, batch.resets)


def check_inputs(spec: ModelSpec, inputs: Any) -> np.ndarray:
    """A batch's inputs as an array. TypeError or ValueError unless they fit the model."""
    inputs = np.asarray(unmasked("batch.inputs", inputs))
    dense = spec.input == "dense"
    if inputs.ndim != (3 if dense else 2) or (dense and inputs.shape[2] != spec.input_size):
        shape = f"(time, batch, {spec.input_size})" if dense else "(time, batch)"
        raise ValueError(f"batch.inputs must have shape {shape}, got {inputs.shape}")
    if dense:
        _check_real("inputs", inputs)
    else:
        none = ", or be -1 for no symbol" if spec.input == "one_hot" else ""
        _check_symbols("inputs", inputs, spec.input_size, none)
    return inputs


def _check_real(name: str, values: np.ndarray) -> None:
    if values.dtype.kind in "cOSUmM":
        raise TypeError(f"batch.{name} must be real numbers, got {values.dtype}")


def _check_symbols(name: str, symbols: np.ndarray, size: int, none: str) -> None:
    """Integers in [0, size), or -1 where ``none`` says what it means."""
    if symbols.dtype.kind not in "iu":
        raise TypeError(f"batch.{name} must be integers, got {symbols.dtype}: use astype(int)")
    if not symbols.size:
        return
    smallest, largest = int(symbols.min()), int(symbols.max())
    if smallest < (-1 if none else 0) or largest >= size:
        raise ValueError(f"batch.{name} must lie in 0..{size - 1}{none}, got {smallest}..{largest}")


def check_settings(learning_rate: float, clip_norm: float | None) -> tuple[float, float | None]:
    """Both as Python's numbers; TypeError or ValueError if one is out of its range."""
    rate = number("learning_rate", learning_rate)
    most = None if clip_norm is None else number("clip_norm", clip_norm)
    if rate < 0:
        raise ValueError(f"learning_rate must not be negative, got {learning_rate}")
    if most is not None and most <= 0:
        raise ValueError(f"clip_norm must be positive (or None), got {clip_norm}")
    return rate, most


def check_state(expected: Mapping[str, Array], state: Mapping[str, Array]) -> None:
    """Raise ValueError unless ``state`` has the entries, shapes and dtypes of ``expected``."""
    if different := expected.keys() ^ state.keys():
        raise ValueError(f"state does not fit this model: differing in {sorted(different)[:4]}; "
                         "load it into a model of its own spec")  # fmt: skip
    for name, value in expected.items():
        unmasked(f"state[{name!r}]", state[name])
        if state[name].shape != value.shape or state[name].dtype != value.dtype:
            raise ValueError(f"state[{name!r}] must be {value.dtype} of shape {value.shape}, got "
                             f"{state[name].dtype} of shape {state[name].shape}")  # fmt: skip
