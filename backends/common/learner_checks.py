"""What a learner asks of its batches, settings and states, on every backend."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gatecore._checks import number
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
    """The batch as NumPy arrays, after checking that it fits the model.

    With ``streams`` its sequences continue that many of the batch before.
    """
    inputs, targets = np.asarray(batch.inputs), np.asarray(batch.targets)
    check_inputs(spec, inputs)
    time, size = inputs.shape[:2]
    if spec.streams is not None and streams is not None and size != streams:
        raise ValueError(
            f"batch.inputs must hold {streams} sequences, which continue those of the batch "
            f"before, got {size}"
        )
    read = time if spec.read is None else min(spec.read, time)
    check_targets(spec, targets, (read, size, spec.output_size))
    return Batch(inputs, targets, batch.resets)


def check_inputs(spec: ModelSpec, inputs: Array) -> None:
    """Whether a batch's inputs (NumPy's or of an array with its attributes) fit the model."""
    dense = spec.input == "dense"
    if inputs.ndim != (3 if dense else 2) or (dense and inputs.shape[2] != spec.input_size):
        wanted = f"(time, batch, {spec.input_size})" if dense else "(time, batch)"
        raise ValueError(f"batch.inputs must have shape {wanted}, got {inputs.shape}")
    if dense:
        return
    if inputs.dtype.kind not in "iu":
        raise TypeError(f"batch.inputs must be integers, got {inputs.dtype}")
    lowest, silence = (-1, ", or be -1 for no symbol") if spec.input == "one_hot" else (0, "")
    if inputs.size and not lowest <= int(inputs.min()) <= int(inputs.max()) < spec.input_size:
        raise ValueError(
            f"batch.inputs must lie in 0..{spec.input_size - 1}{silence}, got "
            f"{inputs.min()}..{inputs.max()}"
        )


def check_targets(spec: ModelSpec, targets: Array, predicted: tuple[int, ...]) -> None:
    """Whether a batch's targets fit the model's answer, of shape ``predicted``."""
    wanted = predicted if spec.loss == "squared_error" else predicted[:-1]
    if targets.shape != wanted:
        raise ValueError(f"batch.targets must have shape {wanted}, got {targets.shape}")
    if spec.loss == "cross_entropy" and targets.dtype.kind not in "iu":
        raise TypeError(f"batch.targets must be integers, got {targets.dtype}")
    if spec.loss == "cross_entropy" and targets.size:
        smallest, largest = int(targets.min()), int(targets.max())
        if smallest < -1 or largest >= spec.output_size:
            raise ValueError(
                f"batch.targets must lie in 0..{spec.output_size - 1}, or be -1 where nothing is "
                f"scored, got {smallest}..{largest}"
            )


def check_settings(learning_rate: float, clip_norm: float | None) -> None:
    """Whether the optimizer's settings make sense."""
    if number("learning_rate", learning_rate) < 0:
        raise ValueError(f"learning_rate must not be negative, got {learning_rate}")
    if clip_norm is not None and number("clip_norm", clip_norm) <= 0:
        raise ValueError(f"clip_norm must be positive (or None), got {clip_norm}")


def check_state(own: Mapping[str, Array], state: Mapping[str, Array]) -> None:
    """Whether ``state`` has the entries, shapes and dtypes of a learner's ``own`` state."""
    if missing := own.keys() ^ state.keys():
        raise ValueError(f"state does not fit this model: differing in {sorted(missing)[:4]}")
    for name, value in own.items():
        if state[name].shape != value.shape or state[name].dtype != value.dtype:
            raise ValueError(
                f"state[{name!r}] must be {value.dtype} of shape {value.shape}, got "
                f"{state[name].dtype} of shape {state[name].shape}"
            )
