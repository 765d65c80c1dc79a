"""Tasks of reinforcement learning: batches are games, and the model plays them."""

import abc
import dataclasses
import functools
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field

from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.environment import Games, World
from gatecore.tasks.problems.base import Stream, Task

SETTINGS = {field.name: field for field in dataclasses.fields(AgentSpec) if field.metadata}


def _setting(name: str) -> Any:
    """A field of ``AgentSpec``, with its default, as a setting of a task."""
    return Field(SETTINGS[name].default, **SETTINGS[name].metadata)


class AgentTask(Task):
    """Games, and the advantage actor-critic agent that learns to play them.

    The agent is torch's: an encoder (3×3 convolutions and a linear layer), a recurrent core that
    sees what the encoder gives, the last action and the last reward, and two perceptrons for the
    policy and the value. Each training step plays a batch of games to their end with the present
    policy, or ``unroll`` steps of games that go on, and then takes one step of Adam (ε = 1e-6) on
    the sum over time, mean over games of −log π(a)(G − V) + ``value_cost`` (G − V)² −
    ``entropy_cost`` H(π), where G are the returns of TD(λ) with λ = γ. Actions are drawn from the
    policy in validation and test too. The mechanism changes nothing that the games draw, but what
    happens in them depends on the actions.
    """

    score: ClassVar = "score"
    shown: ClassVar = "score"
    background: ClassVar = 0.0  # of images

    validation_size: int = Field(256, ge=1, description="games of a validation")
    test_size: int = Field(1024, ge=1, description="games of the test")
    discount: float = _setting("discount")
    entropy_cost: float = _setting("entropy_cost")
    value_cost: float = _setting("value_cost")
    betas: tuple[float, float] = Field((0.0, 0.95), description="of Adam")
    unroll: int | None = _setting("unroll")
    channels: tuple[int, ...] = _setting("channels")
    features: int = _setting("features")
    gain: float = _setting("gain")
    heads: tuple[int, ...] = _setting("heads")

    @abc.abstractmethod
    def world(self, size: int) -> World:
        """``size`` games."""

    def spec(self, **model: Any) -> AgentSpec:
        for name, none in (("zoneout", (0.0, 0.0)), ("dropout", 0.0)):
            if (given := model.pop(name, none)) != none:
                raise ValueError(f"{name}={given!r}: an agent has none")
        world = shared_world(self, 1)
        settings = {name: getattr(self, name) for name in SETTINGS}
        return AgentSpec(
            shape=world.shape, actions=world.actions, background=self.background, **settings,
            **model,
        )  # fmt: skip

    def learner(
        self, backend: ModuleType, spec: Any, *, seed: int, dtype: str, batch_size: int
    ) -> Any:
        games = None if self.unroll is None else Games(self.world(batch_size), (seed, 3))
        return backend.Agent(spec, games, seed=seed, dtype=dtype, betas=self.betas)

    def batch(self, seed: int, step: int, size: int) -> Games:  # type: ignore[override]
        return Games(shared_world(self, size), (seed, Stream.TRAIN, step))

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Games]:  # type: ignore[override]
        total = self.test_size if stream is Stream.TEST else self.validation_size
        return [
            Games(shared_world(self, min(size, total - start)), (seed, stream, k))
            for k, start in enumerate(range(0, total, size))
        ]


@functools.lru_cache(maxsize=256)
def shared_world(task: AgentTask, size: int) -> World:
    """Games of a task, kept, since whoever plays begins with a reset."""
    return task.world(size)
