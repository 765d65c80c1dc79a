"""The interface between a task and the trainer: data, a model, baselines."""

import abc
import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from gatecore import Batch, Mechanism, ModelSpec, _checks
from gatecore.contracts.agent import AgentSpec

Scores = dict[str, float]
Pairs = tuple[np.ndarray, np.ndarray]
HIGHER_IS_BETTER = ("accuracy", "score")
PERFECT = "perfect"  # the baseline that no policy exceeds; the others are memoryless


class Stream(enum.IntEnum):
    """A data split. Training, validation and test data draw from separate random streams."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def generator(seed: int, stream: Stream, index: int) -> np.random.Generator:
    """The random generator of one batch or epoch, a function of its three arguments."""
    # so every mechanism sees the same data, and a resumed run only needs its step number
    return np.random.default_rng([seed, stream, index])


def frequency_scores(splits: Iterable[Pairs], classes: int) -> Scores:
    """Loss (nats) and accuracy of add-one label frequencies, counted by context.

    ``splits`` are training and test data, each a pair (contexts, labels) of integer arrays (n,).
    """
    (contexts, labels), (test_contexts, test_labels) = splits
    counts = np.ones((max(contexts.max(), test_contexts.max()) + 1, classes))
    np.add.at(counts, (contexts, labels), 1)
    predicted = counts[test_contexts]
    likelihood = predicted[np.arange(len(test_labels)), test_labels] / predicted.sum(axis=1)
    correct = predicted.argmax(axis=1) == test_labels
    return {"loss": float(-np.log(likelihood).mean()), "accuracy": float(correct.mean())}


# The ranges of settings, which are checked first; others are beside their field.
Size = Annotated[int, Field(ge=1, le=1_000_000)]  # of a layer, a batch, a sequence, a set
Count = Annotated[int, Field(ge=1, le=10**9)]  # of training steps, of occurrences
Seed = Annotated[int, Field(ge=0, le=_checks.LARGEST_SEED)]
Positive = Annotated[float, Field(gt=0, le=1e38)]  # fits float32
Weight = Annotated[float, Field(ge=0, le=1e6)]  # of a cost or a reward
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def plain(value: Any) -> Any:
    """NumPy's numbers and arrays, also within lists and mappings, as Python's."""
    value = _checks.plain(value)
    if isinstance(value, list | tuple):
        return type(value)(map(plain, value)) if type(value) in (list, tuple) else value
    return {k: plain(v) for k, v in value.items()} if type(value) is dict else value


def _numeric(annotation: Any) -> bool:
    """Whether a field takes numbers, or tuples of them, and nothing else but None."""
    inner = [part for part in get_args(annotation) if isinstance(part, type) or get_args(part)]
    return all(map(_numeric, inner)) if inner else annotation in (int, float, type(None))


def _check_number(value: Any, kind: str) -> None:
    if isinstance(value, bool):
        raise ValueError("input should not be true or false")
    if isinstance(value, str | bytes):
        raise ValueError(f"input should be a valid {kind}, not text")
    if not isinstance(value, int | float | list | tuple | None):  # Decimal, Fraction, a tensor
        raise ValueError(f"input should be a valid {kind}, not {type(value).__name__}")
    for entry in value if isinstance(value, list | tuple) else ():
        _check_number(entry, kind)


class Settings(BaseModel):
    """Frozen, validated settings. Unknown names, NaN and infinities are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """NumPy's numbers as Python's; text and booleans are none, but where a field reads text."""
        field = cls.model_fields[str(info.field_name)]
        try:
            value = plain(value)
        except RecursionError as error:
            raise ValueError("input is nested too deeply") from error
        reads_text = any(isinstance(part, BeforeValidator) for part in field.metadata)
        if not reads_text and _numeric(field.annotation):
            _check_number(value, "integer" if "int" in str(field.annotation) else "number")
        elif isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("input should not be true or false")
        return value


class Task(Settings, abc.ABC):
    """A task; its settings are fields. It yields NumPy batches and knows no framework.

    Class attributes: ``name``; ``title_format``, with fields in braces; ``score``, the metric of
    tables and curves, which selects the best checkpoint; ``presets``, values of the run's and the
    task's fields by name; ``carries``, whether each training batch continues the sequences of the
    previous one; ``shown``, the training metric of the progress display; ``downsize``, the default
    units per master gate (Appendix D). For randomly drawn sequences subclass
    :class:`GeneratedTask`, as docs/tutorials/task.md does.
    """

    name: ClassVar[str]
    score: ClassVar[Literal["loss", "accuracy", "perplexity", "score"]]
    presets: ClassVar[Mapping[str, Mapping[str, Any]]]
    title_format: ClassVar[str]
    carries: ClassVar[bool] = False
    shown: ClassVar[str] = "loss"
    downsize: ClassVar[int] = 16

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values of a preset; some depend on ``settings``, the user's and the mechanism."""
        return cls.presets[name]

    @classmethod
    def better_if_higher(cls) -> bool:
        """Whether a higher score is better."""
        return cls.score in HIGHER_IS_BETTER

    @property
    def title(self) -> str:
        """A short title for tables and figures, with the settings that matter."""
        return self.title_format.format_map(dict(self))

    @abc.abstractmethod
    def spec(self, **model: Any) -> ModelSpec | AgentSpec:
        """The model; ``model`` has core, mechanism, hidden_size, layers, memory, zoneout, dropout,
        two_biases, layer_norm, residual, candidate, and for a task that carries the state
        ``streams``.
        """

    def learner(self, backend: Any, spec: Any, *, seed: int, dtype: str, batch_size: int) -> Any:
        """The backend's learner for ``spec``."""
        return backend.Learner(spec, seed=seed, dtype=dtype)

    @abc.abstractmethod
    def batch(self, seed: int, step: int, size: int) -> Batch:
        """The training batch of a step, counted from 0; ``size`` sequences."""

    @abc.abstractmethod
    def held_out(self, stream: Stream, seed: int, size: int) -> Sequence[Batch]:
        """The whole validation or test set, in batches of at most ``size`` sequences."""

    def scores(self, metrics: Mapping[str, float]) -> Scores:
        """A learner's evaluation metrics, with the task's derived ones."""
        return dict(metrics)

    @abc.abstractmethod
    def baselines(self) -> dict[str, Scores]:
        """Scores of memoryless predictors by name: loss, and accuracy where defined; ``PERFECT``
        is the maximum score of a reinforcement learning task.
        """

    def mechanism_defaults(self, mechanism: Mechanism) -> dict[str, Any]:
        """Mechanism fields that this task sets unless the user does."""
        return {"downsize": self.downsize} if mechanism.auxiliary == "master" else {}


class SampledTask(Task):
    """A task with data drawn at random: as much as training asks for, and two held-out sets."""

    validation_size: Size = Field(256, description="sequences in the validation set")
    test_size: Size = Field(1024, description="sequences in the test set")

    @abc.abstractmethod
    def draw(self, stream: Stream, seed: int, index: int, size: int) -> Any:
        """Batch number ``index`` of a split, of ``size`` sequences."""

    def batch(self, seed: int, step: int, size: int) -> Any:
        return self.draw(Stream.TRAIN, seed, step, size)

    def held_out(self, stream: Stream, seed: int, size: int) -> list[Any]:
        total = self.test_size if stream is Stream.TEST else self.validation_size
        sizes = [min(size, total - start) for start in range(0, total, size)]
        return [self.draw(stream, seed, index, count) for index, count in enumerate(sizes)]


class GeneratedTask(SampledTask):
    """A supervised task with generated sequences; a subclass defines :meth:`sample`."""

    @abc.abstractmethod
    def sample(self, rng: np.random.Generator, size: int) -> Batch:
        """``size`` sequences drawn from ``rng``."""

    def draw(self, stream: Stream, seed: int, index: int, size: int) -> Batch:
        return self.sample(generator(seed, stream, index), size)
