"""The interface of a learner, and of an agent, on which tasks rely."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from gatecore._namespace import Array
from gatecore.algebra import Gate

BatchT = TypeVar("BatchT", contravariant=True)


@runtime_checkable
class Learner(Protocol[BatchT]):
    """A model in training: a ``Learner`` of ``Batch``es, or an ``Agent`` of ``EpisodeBatch``es.

    ``step`` and ``evaluate`` return metrics by name. ``gates`` are the effective forget gate and
    its complement, averaged over time and batch: float64 (rows, units). ``load_state_dict`` raises
    ValueError if a state does not fit.
    """

    parameters: dict[str, Array]

    def step(
        self, batch: BatchT, /, *, learning_rate: float, clip_norm: float | None = None
    ) -> dict[str, float]: ...

    def evaluate(self, batches: Iterable[BatchT], /) -> dict[str, float]: ...

    def gates(self, batch: BatchT, /) -> Gate: ...

    def state_dict(self) -> dict[str, Array]: ...

    def load_state_dict(self, state: Mapping[str, Any], /) -> None: ...
