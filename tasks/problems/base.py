"""What the trainer asks of a task: data, a model, and what an answer without memory scores."""

import abc
import enum
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from gatecore import Batch, Mechanism, ModelSpec
from gatecore.contracts.agent import AgentSpec

Scores = dict[str, float]
HIGHER = ("accuracy", "score")  # the scores of which more is better
PERFECT = "perfect"  # the name among baselines of what no player exceeds


class Stream(enum.IntEnum):
    """Which random numbers: training, validation and test data never share any."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def generator(seed: int, stream: Stream, index: int) -> np.random.Generator:
    """The generator of one batch (or epoch): a function of its three arguments alone.

    So every mechanism sees equal data, and a resumed run needs to know only its step.
    """
    return np.random.default_rng([seed, stream, index])


class Settings(BaseModel):
    """Validated values: nothing unknown, nothing infinite, never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        name = str(info.field_name)
        if isinstance(value, bool) and cls.model_fields[name].annotation is not bool:
            raise ValueError("input should not be true or false")
        return value


class Task(Settings, abc.ABC):
    """A task with its settings as fields. It yields NumPy batches and knows no framework.

    Class attributes: ``name``; ``score``, the metric that tables and curves show; ``presets``,
    values of the run's and of the task's fields by preset name; ``carries``, whether each training
    batch continues the sequences of the one before, and so the state goes on; ``shown``, the metric
    of training steps that is shown while it trains.
    """

    name: ClassVar[str]
    score: ClassVar[Literal["loss", "accuracy", "perplexity", "score"]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    carries: ClassVar[bool] = False
    shown: ClassVar[str] = "loss"

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of a preset, for who has chosen ``settings``."""
        return cls.presets[name]

    @classmethod
    def better_if_higher(cls) -> bool:
        """Whether a higher score is better."""
        return cls.score in HIGHER

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """A short name for people, with the settings that matter."""

    @abc.abstractmethod
    def spec(self, **model: Any) -> ModelSpec | AgentSpec:
        """The model; ``model`` holds core, mechanism, hidden_size, layers, zoneout, dropout.

        For a task that carries the state it holds streams, too.
        """

    def learner(
        self, backend: ModuleType, spec: Any, *, seed: int, dtype: str, batch_size: int
    ) -> Any:
        """What trains the model, of a backend."""
        return backend.Learner(spec, seed=seed, dtype=dtype)

    @abc.abstractmethod
    def batch(self, seed: int, step: int, size: int) -> Batch:
        """The training batch of a step, counted from 0."""

    @abc.abstractmethod
    def held_out(self, stream: Stream, seed: int, size: int) -> Sequence[Batch]:
        """The whole validation or test set, in batches of at most ``size`` sequences."""

    def scores(self, metrics: Mapping[str, float]) -> Scores:
        """A learner's metrics of an evaluation, with what the task adds."""
        return dict(metrics)

    @abc.abstractmethod
    def baselines(self) -> dict[str, Scores]:
        """What answers without memory score, by name: loss, and accuracy where there is one.

        For games also what the best player scores, as ``PERFECT``.
        """

    def mechanism_defaults(self, mechanism: Mechanism) -> dict[str, Any]:
        """Fields of the mechanism that this task sets unless the user does.

        The paper serves 16 units by each master gate on synthetic tasks and images (Appendix D).
        """
        return {"downsize": 16} if mechanism.auxiliary == "master" else {}


class GeneratedTask(Task):
    """A task whose sequences are drawn afresh for every batch."""

    validation_size: int = Field(256, ge=1, description="sequences in the validation set")
    test_size: int = Field(1024, ge=1, description="sequences in the test set")

    @abc.abstractmethod
    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """``size`` sequences."""

    def batch(self, seed: int, step: int, size: int) -> Batch:
        return self.sample(generator(seed, Stream.TRAIN, step), size)

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Batch]:
        total = self.test_size if stream is Stream.TEST else self.validation_size
        starts = range(0, total, size)
        return [
            self.sample(generator(seed, stream, k), min(size, total - start))
            for k, start in enumerate(starts)
        ]
