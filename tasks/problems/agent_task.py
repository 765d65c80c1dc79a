"""Reinforcement learning tasks: a batch is a set of episodes that the model acts in."""

import abc
import dataclasses
import functools
from typing import Any, ClassVar

from pydantic import Field

from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.environment import Environment, EpisodeBatch
from gatecore.tasks.problems.base import Decay, Positive, SampledTask, Size, Stream, Weight

SETTINGS = {field.name: field for field in dataclasses.fields(AgentSpec) if field.metadata}


def _setting(name: str) -> Any:
    """A field of ``AgentSpec``, with its default, as a setting of a task."""
    return Field(SETTINGS[name].default, **SETTINGS[name].metadata)


class AgentTask(SampledTask):
    """An environment, and the advantage actor-critic agent that learns in it.

    The agent runs on torch: an encoder (3×3 convolutions and a linear layer), a recurrent core that
    reads the encoder's output, the last action and the last reward, and two perceptrons for policy
    and value. A training step runs a batch of whole episodes with the current policy, or continues
    a truncated rollout by ``unroll`` steps. It then takes one step of Adam (ε = 1e-6) on the sum
    over time and mean over episodes of

        −log π(a) (G − V) + ``value_cost`` (G − V)² − ``entropy_cost`` H(π),

    where G are the TD(λ) returns with λ = γ = ``discount``. Actions are sampled from the policy in
    validation and test too. All mechanisms get equal random numbers; the actions shape an episode.

    A subclass defines ``name``, ``presets``, ``title``, :meth:`environment` and ``baselines``.
    :meth:`spec` raises ValueError for zoneout, dropout or two biases, which an agent does not have.
    """

    score: ClassVar = "score"
    shown: ClassVar = "score"
    background: ClassVar = 0.0  # of images

    discount: Decay = _setting("discount")
    entropy_cost: Weight = _setting("entropy_cost")
    value_cost: Weight = _setting("value_cost")
    betas: tuple[Decay, Decay] = Field((0.0, 0.95), description="of Adam")
    unroll: Size | None = _setting("unroll")
    channels: tuple[Size, ...] = _setting("channels")
    features: Size = _setting("features")
    gain: Positive = _setting("gain")
    heads: tuple[Size, ...] = _setting("heads")

    @abc.abstractmethod
    def environment(self, size: int) -> Environment:
        """A new environment of ``size`` parallel episodes."""

    def spec(self, **model: Any) -> AgentSpec:
        for name, off in (("zoneout", (0.0, 0.0)), ("dropout", 0.0), ("two_biases", False)):
            if (value := model.pop(name, off)) != off:
                raise ValueError(f"{name}={value!r}: an agent has no {name.replace('_', ' ')}; "
                                 f"leave it at {off}")  # fmt: skip
        environment = shared_environment(self, 1)
        settings = {name: getattr(self, name) for name in SETTINGS}
        return AgentSpec(shape=environment.shape, actions=environment.actions,
                         background=self.background, **settings, **model)  # fmt: skip

    def learner(self, backend: Any, spec: Any, *, seed: int, dtype: str, batch_size: int) -> Any:
        truncated = self.unroll is not None
        rollout = EpisodeBatch(self.environment(batch_size), (seed, 3)) if truncated else None
        return backend.Agent(spec, rollout, seed=seed, dtype=dtype, betas=self.betas)

    def draw(self, stream: Stream, seed: int, index: int, size: int) -> EpisodeBatch:
        return EpisodeBatch(shared_environment(self, size), (seed, stream, index))


@functools.lru_cache(maxsize=256)
def shared_environment(task: AgentTask, size: int) -> Environment:
    """A task's environment, cached: whoever uses it resets it first."""
    return task.environment(size)
