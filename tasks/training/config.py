"""The complete, validated configuration of a run, and the table of tasks."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BeforeValidator,
    Field,
    InstanceOf,
    PlainSerializer,
    ValidationError,
    model_validator,
)

import gatecore
from gatecore import Mechanism, ModelSpec, backends
from gatecore._checks import choice
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.learner import Learner
from gatecore.contracts.memory import MEMORY_CORES, Memory
from gatecore.tasks.problems.adding import Adding
from gatecore.tasks.problems.base import Settings, Task
from gatecore.tasks.problems.copying import Copying
from gatecore.tasks.problems.forgetting import Forgetting
from gatecore.tasks.problems.language.task import Language
from gatecore.tasks.problems.match import VisualMatch
from gatecore.tasks.problems.pixels.task import Pixels
from gatecore.tasks.problems.programs.task import Programs
from gatecore.tasks.problems.small_environments import CartPole, MemoryChain, TMaze

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Copying, Adding, Forgetting, Pixels, Language, Programs, VisualMatch,
        TMaze, MemoryChain, CartPole,
    )
}  # fmt: skip
ELSEWHERE = {  # what is no setting, and where it is given
    "task": "name it first, as in `gatecore train copying`",
    "mechanism": "use --mechanism (in Python the second argument); its fields are mechanism.FIELD",
    "preset": "use --preset (in Python the third argument)",
}


class ConfigError(ValueError):
    """A setting that is unknown or cannot be; the message says which, and what would do."""


def _read_task(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    try:
        return TASKS[choice("task", fields.pop("name", None), TASKS)](**fields)
    except ValidationError as error:
        raise ConfigError(explain(error)) from error


def _write_task(task: Task) -> dict[str, Any]:
    return {"name": task.name, **task.model_dump()}


def _read_mechanism(value: Any) -> Any:
    try:
        if not isinstance(value, Mapping):
            return gatecore.mechanism(value)
        fields = dict(value)
        if fields.keys() == {field.name for field in dataclasses.fields(Mechanism)}:
            return Mechanism(**fields)  # complete, as a run records it: the name may be any
        return gatecore.mechanism(fields.pop("name", None), **fields)
    except TypeError as error:  # pydantic reports ValueErrors alone
        raise ConfigError(str(error)) from error


class Config(Settings):
    """Everything that determines a run, but for the versions of the software.

    Build one with :meth:`of`, which starts from a task's preset. The task and its settings are one
    value, the mechanism with all its fields another.
    """

    task: Annotated[InstanceOf[Task], BeforeValidator(_read_task), PlainSerializer(_write_task)]
    preset: str
    mechanism: Annotated[
        InstanceOf[Mechanism],
        BeforeValidator(_read_mechanism),
        PlainSerializer(dataclasses.asdict),
    ]
    core: Literal["lstm", "gru", "minimal", "rmc", "dnc", "rma", "none"] = "lstm"
    backend: str = "numpy"
    dtype: Literal["float32", "float64"] = "float32"
    hidden_size: int = Field(ge=1, le=1_000_000, description="units of a recurrent layer")
    layers: int = Field(1, ge=1, le=1000)
    memory_slots: int | None = Field(None, ge=1, description="of rmc, dnc, rma; null: the core's")
    memory_width: int | None = Field(None, ge=1, description="of a slot of dnc, rma; null: its own")
    memory_heads: int | None = Field(
        None, ge=1, description="of attention, or reads; null: its own"
    )
    gate_style: Literal["unit", "memory", "none"] | None = Field(
        None, description="of rmc: gates of each unit, of each slot, or none; null: unit"
    )
    zoneout: tuple[float, float] = Field((0.0, 0.0), description="of the cell and hidden state")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the head's ReLU layers")
    learning_rate: float = Field(gt=0, description="of Adam")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="of the learning rate; linear: falling to 0 at the last step"
    )
    clip_norm: float | None = Field(1.0, gt=0, description="of the whole gradient; null: no clip")
    batch_size: int = Field(ge=1, le=1_000_000)
    steps: int = Field(ge=1)
    log_every: int = Field(10, ge=1, description="steps averaged into a line of metrics")
    evaluate_every: int = Field(ge=1, description="steps between two validations")
    checkpoint_every: int = Field(ge=1, description="steps between two checkpoints")
    checkpoint_seconds: float = Field(300.0, gt=0, description="longest time between two, too")
    threads: int | None = Field(None, ge=1, description="of BLAS; null: all that it finds")
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _model_exists(self) -> Self:
        if (why := self.spec().only_torch) and self.backend != "torch":
            raise ValueError(f"{why} is of backend='torch', not of {self.backend!r}")
        return self

    @classmethod
    def of(
        cls,
        task: str,
        mechanism: str | Mechanism = "UR",
        preset: str = "quick",
        /,
        **settings: Any,
    ) -> Self:
        """A task's preset, with any fields of this class and of the task set otherwise.

        Parameters
        ----------
        task : str
        mechanism : str or Mechanism
        preset : str
            By position, as the two before, so that any name is free to be a (wrong) setting.
        **settings
            Fields of this class and of the task by name; fields of the mechanism as
            ``mechanism.FIELD``.

        Raises
        ------
        ConfigError
            An unknown name (the nearest are offered) or an impossible value.

        Examples
        --------
        >>> config = Config.of("copying", "UM", length=100, **{"mechanism.downsize": 8})
        >>> config.task.length, config.mechanism.downsize, config.hidden_size
        (100, 8, 128)
        """
        try:
            kind = TASKS[choice("task", task, TASKS)]
            values = {**kind.preset(choice("preset", preset, kind.presets), settings), **settings}
            if values.get("core") in MEMORY_CORES:
                values.setdefault("backend", "torch")  # which alone has them
            its, run, gates = _sort(kind, values)
            built = kind(**its)
            gates = built.mechanism_defaults(gatecore.mechanism(mechanism, **gates)) | gates
            chosen = gatecore.mechanism(mechanism, **gates)
            backends.load(run.get("backend", "numpy"))
            return cls(task=built, preset=preset, mechanism=chosen, **run)
        except ValidationError as error:
            raise ConfigError(explain(error)) from error
        except (ImportError, TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error

    def spec(self) -> ModelSpec | AgentSpec:
        """The model that this run trains."""
        carried = {"streams": self.batch_size} if self.task.carries else {}
        memory = Memory(
            slots=self.memory_slots, width=self.memory_width, heads=self.memory_heads,
            gate_style=self.gate_style,
        )  # fmt: skip
        return self.task.spec(
            core=self.core, mechanism=self.mechanism, hidden_size=self.hidden_size,
            layers=self.layers, memory=None if memory == Memory() else memory,
            zoneout=self.zoneout, dropout=self.dropout, **carried,
        )  # fmt: skip

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        left = 1 - step / self.steps if self.schedule == "linear" else 1.0
        return self.learning_rate * left

    def learner(self) -> Learner[Any]:
        """The untrained learner of that model, of the run's backend."""
        return self.task.learner(
            backends.load(self.backend), self.spec(), seed=self.seed, dtype=self.dtype,
            batch_size=self.batch_size,
        )  # fmt: skip

    def differences(self, other: "Config") -> list[str]:
        """Names of the fields in which two configurations differ, with both values."""
        mine, theirs = (_flat(config.model_dump(mode="json")) for config in (self, other))
        return [
            f"{name} ({theirs.get(name, 'none')} there, {mine.get(name, 'none')} here)"
            for name in mine | theirs
            if mine.get(name) != theirs.get(name)
        ]


def explain(error: ValidationError) -> str:
    """One line for each thing that pydantic found wrong."""
    lines = []
    for found in error.errors():
        message = found["msg"].removeprefix("Value error, ")
        name = ".".join(map(str, found["loc"]))
        if found["type"] == "missing":
            lines.append(f"{name} is missing")
        elif not name:
            lines.append(message)
        else:
            lines.append(f"{name}={found['input']!r}: {message[0].lower()}{message[1:]}")
    return "; ".join(lines)


def _sort(
    kind: type[Task], values: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The values that belong to the task, to the run, and to the mechanism."""
    fields = [field.name for field in dataclasses.fields(Mechanism) if field.name != "name"]
    own = [name for name in Config.model_fields if name not in ("task", "preset", "mechanism")]
    known = [*kind.model_fields, *own, *(f"mechanism.{field}" for field in fields)]
    its, run, gates = {}, {}, {}
    for key, value in values.items():
        if key in ELSEWHERE:
            raise ConfigError(f"unknown setting {key!r}: {ELSEWHERE[key]}")
        choice("setting", key, known)
        if key in kind.model_fields:
            its[key] = value
        elif key in own:
            run[key] = value
        else:
            gates[key.removeprefix("mechanism.")] = value
    return its, run, gates


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
