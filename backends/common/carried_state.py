"""The state that a model carries from batch to batch: by name, as it is kept, and by layer."""

from collections.abc import Mapping, Sequence
from typing import Any

from gatecore.contracts.model import ModelSpec

Array = Any


def by_layer(spec: ModelSpec, named: Mapping[str, Array]) -> list[Any]:
    """(h, c) or h of each layer, as whole-sequence layers take them."""
    if spec.core == "lstm":
        return [(named[f"{k}.h"], named[f"{k}.c"]) for k in range(spec.layers)]
    return [named[f"{k}.h"] for k in range(spec.layers)]


def by_name(spec: ModelSpec, states: Sequence[Any]) -> dict[str, Array]:
    """What :meth:`ModelSpec.carried` names, from (h, c) or h of each layer."""
    named: dict[str, Array] = {}
    for k, state in enumerate(states):
        parts = state if spec.core == "lstm" else (state,)
        named |= {f"{k}.{part}": value for part, value in zip("hc", parts, strict=False)}
    return named


def check_streams(spec: ModelSpec, size: int, streams: int | None) -> None:
    """Whether a batch of ``size`` sequences continues ``streams`` of them (None: starts them)."""
    if spec.streams is not None and streams is not None and size != streams:
        raise ValueError(
            f"batch.inputs must hold {streams} sequences, which continue those of the batch "
            f"before, got {size}"
        )
