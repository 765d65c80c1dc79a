"""The complete, validated configuration of a run, and the table of tasks."""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer, ValidationError

import gatecore
from gatecore import MECHANISMS, Mechanism, ModelSpec, backends
from gatecore._checks import choice, plain, show, unused
from gatecore.contracts.agent import AgentSpec
from gatecore.contracts.learner import Learner
from gatecore.contracts.memory import MEMORY_CORES, Memory
from gatecore.tasks.problems.adding import Adding
from gatecore.tasks.problems.base import Count, Decay, Positive, Seed, Settings, Share, Size, Task
from gatecore.tasks.problems.copying import Copying
from gatecore.tasks.problems.forgetting import Forgetting
from gatecore.tasks.problems.language.task import Language
from gatecore.tasks.problems.match import VisualMatch
from gatecore.tasks.problems.pixels.task import Pixels
from gatecore.tasks.problems.programs.task import Programs
from gatecore.tasks.problems.small_agent_tasks import CartPole, MemoryChain, TMaze

_TASKS = (Copying, Adding, Forgetting, Pixels, Language, Programs, VisualMatch, TMaze, MemoryChain,
          CartPole)  # fmt: skip
TASKS: dict[str, type[Task]] = {task.name: task for task in _TASKS}
ELSEWHERE = {  # names that are no settings, and where their values belong
    "task": "name it first, as in `gatecore train copying`",
    "mechanism": "use --mechanism (in Python the second argument); its fields are mechanism.FIELD",
    "preset": "use --preset (in Python the third argument)",
}


class ConfigError(ValueError):
    """A setting is unknown or invalid; the message names it and the values that are valid."""


@contextlib.contextmanager
def config_errors() -> Iterator[None]:
    """Raise errors of validation and of missing libraries as a ConfigError of one line."""
    try:
        yield
    except ValidationError as error:
        raise ConfigError(explain(error)) from error
    except (ImportError, TypeError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _read_task(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    fields = dict(value)
    with config_errors():
        return TASKS[choice("task", fields.pop("name", None), TASKS)](**fields)


def read_mechanism(value: Any) -> Mechanism:
    """A Mechanism from one, a mapping of its fields, a name, or "NAME(FIELD=VALUE, ...)"."""
    with config_errors():  # pydantic reports ValueErrors alone
        if not isinstance(value, Mapping):
            name, overrides = read_variant(value)
            return gatecore.mechanism(name, **overrides)
        fields = dict(value)
        # earlier versions recorded no `tied`
        if {"tied", *fields} == {field.name for field in dataclasses.fields(Mechanism)}:
            return Mechanism(**fields)  # complete, as a run records it: any name is valid
        return gatecore.mechanism(fields.pop("name", None), **fields)


def read_variant(value: Any) -> tuple[Any, dict[str, Any]]:
    """The name and the fields of "NAME(FIELD=VALUE, ...)"; what is no such text has no fields."""
    if not isinstance(value, str) or "(" not in value:
        return value, {}
    name, _, inside = value.strip().partition("(")
    pairs = [part.partition("=") for part in inside.removesuffix(")").split(",")]
    if not (inside.endswith(")") and all(sign for _, sign, _ in pairs)):
        raise ConfigError(f"mechanism={show(value)} should be NAME(FIELD=VALUE, ...)")
    fields: dict[str, Any] = {}
    for field, _, text in pairs:
        if (key := field.strip()) in fields:
            raise ConfigError(f"mechanism={show(value)} gives {key} twice: remove one of the two")
        fields[key] = read_value(text.strip())
    return name.strip(), fields


def changed(gates: Mechanism, otherwise: Mechanism | None = None) -> dict[str, Any]:
    """The fields that differ from those that the mechanism's name stands for.

    Those of ``otherwise`` are compared where the name is not registered; None: there are none.
    """
    usual = otherwise or gates
    with contextlib.suppress(ValueError):
        usual = gatecore.mechanism(gates.name)
    return {k: v for k, v in vars(gates).items() if v != getattr(usual, k)}


class Config(Settings):
    """Everything that determines a run, except the versions of the software.

    Build one with :meth:`of`, which starts from a task's preset. Its fields are the task with the
    task's settings, the mechanism with all its fields, and the settings of the run: model sizes in
    units and layers, optimization, and intervals in training steps. ``pydantic.ValidationError`` if
    a field is missing, unknown or invalid; :meth:`of` raises a ConfigError of one line.

    >>> config = Config.of("adding", "standard", seed=3)
    >>> config.mechanism.name, config.learning_rate, config.clip_norm
    ('standard', 0.003, 1.0)
    """

    task: Annotated[InstanceOf[Task], BeforeValidator(_read_task), PlainSerializer(
        lambda task: {"name": task.name, **task.model_dump()})]  # fmt: skip
    preset: str
    mechanism: Annotated[InstanceOf[Mechanism], BeforeValidator(read_mechanism),
                         PlainSerializer(dataclasses.asdict)]  # fmt: skip
    core: Literal["lstm", "gru", "minimal", "mingru", "rmc", "dnc", "rma", "none"] = "lstm"
    backend: str = "numpy"
    dtype: Literal["float32", "float64"] = Field("float32", description="type of all arrays")
    hidden_size: Size = Field(description="units of a recurrent layer")
    layers: int = Field(1, ge=1, le=1000, description="number of recurrent layers")
    memory_slots: Size | None = Field(
        None, description="memory slots of rmc, dnc, rma; null: the core's default"
    )
    memory_width: Size | None = Field(
        None, description="width of a slot of dnc, rma; null: the core's default"
    )
    memory_heads: Size | None = Field(
        None, description="attention or read heads; null: the core's default"
    )
    gate_style: Literal["unit", "memory", "none"] | None = Field(
        None, description="rmc: a gate for each unit, for each memory slot, or none; null: unit"
    )
    zoneout: tuple[Share, Share] = Field(
        (0.0, 0.0), description="zoneout probabilities of the cell and hidden state"
    )
    dropout: Decay = Field(0.0, description="dropout probability of the head's ReLU layers")
    two_biases: bool = Field(False, description="a second trained bias in each layer (D.5)")
    layer_norm: bool = Field(False, description="layer normalization in each layer (D.3)")
    residual: bool = Field(False, description="each layer in a residual block")
    candidate: Literal["linear", "tanh"] | None = Field(
        None, description="activation of mingru's candidate; null: linear"
    )
    learning_rate: Positive = Field(description="learning rate of Adam")
    schedule: Literal["constant", "linear"] = Field(
        "constant", description="of the learning rate; linear: falling to 0 at the last step"
    )
    clip_norm: Positive | None = Field(
        1.0, description="largest norm of the whole gradient; null: no clipping"
    )
    batch_size: Size = Field(description="sequences, streams or environments in a batch")
    steps: Count
    log_every: Count = Field(10, description="steps averaged into a line of metrics")
    evaluate_every: Count = Field(description="steps between two validations")
    checkpoint_every: Count = Field(description="steps between two checkpoints")
    checkpoint_seconds: Positive = Field(300.0, description="most seconds between them")
    threads: int | None = Field(
        None, ge=1, le=1024, description="threads of BLAS; null: its default"
    )
    seed: Seed = 0

    @pydantic.model_validator(mode="after")
    def _model_exists(self) -> Self:
        self.spec()
        return self

    @classmethod
    def of(cls, task: str, mechanism: str | Mechanism = "UR", preset: str = "quick", /,
           **settings: Any) -> Self:  # fmt: skip
        """A task's preset ("quick", "paper"), with some fields set otherwise.

        ``task`` is a name in :data:`gatecore.tasks.TASKS`, ``mechanism`` a value, a name, or
        "NAME(FIELD=VALUE, ...)"; ``settings`` are fields of this class and of the task by name, and
        fields of the mechanism as ``mechanism.FIELD``. The others are positional, so that their
        names can be reported as wrong settings. ConfigError if a name is unknown (the message
        offers the nearest), or a value is invalid, has no effect, or contradicts another one.

        >>> config = Config.of("copying", "UM", length=100, **{"mechanism.downsize": 8})
        >>> config.task.length, config.mechanism.downsize, config.hidden_size
        (100, 8, 128)
        """
        with config_errors():
            kind = TASKS[choice("task", task, TASKS)]
            settings = {name: plain(value) for name, value in settings.items()}
            known = {k: v for k, v in settings.items() if isinstance(v, str | float | int)}
            known["mechanism"] = read_mechanism(mechanism).name
            values = {**kind.preset(choice("preset", preset, kind.presets), known), **settings}
            if known.get("core") in MEMORY_CORES:
                values.setdefault("backend", "torch")  # which alone has them
            of_task, of_run, of_mechanism = _sort(kind, values)
            built = kind(**of_task)
            gates = _gates(mechanism, of_mechanism, built)
            backend = backends.load(of_run.get("backend", "numpy"))
            config = cls(task=built, preset=preset, mechanism=gates, **of_run)
            if reason := backend.unsupported(config.spec()):
                raise ValueError(f"backend={config.backend!r}: {reason}")
            config.check_effects()
            return config

    def spec(self) -> ModelSpec | AgentSpec:
        """The model that this run trains."""
        carried = {"streams": self.batch_size} if self.task.carries else {}
        memory = Memory(slots=self.memory_slots, width=self.memory_width, heads=self.memory_heads,
                        gate_style=self.gate_style)  # fmt: skip
        return self.task.spec(
            core=self.core, mechanism=self.mechanism, hidden_size=self.hidden_size,
            layers=self.layers, memory=None if memory == Memory() else memory,
            zoneout=self.zoneout, dropout=self.dropout, two_biases=self.two_biases,
            layer_norm=self.layer_norm, residual=self.residual, candidate=self.candidate, **carried,
        )  # fmt: skip

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return self.learning_rate * (1 - step / self.steps if self.schedule == "linear" else 1.0)

    def learner(self) -> Learner[Any]:
        """The untrained learner of that model, of the run's backend."""
        return self.task.learner(backends.load(self.backend), self.spec(), seed=self.seed,
                                 dtype=self.dtype, batch_size=self.batch_size)  # fmt: skip

    def unused(self) -> dict[str, str]:
        """The settings that have no effect on this model, by the names of :meth:`of`, and why.

        >>> Config.of("copying", "U").unused()["dropout"]
        'its head has no ReLU layer'
        """
        reasons = unused(self.spec()) | unused(self.task)
        fields = unused(self.mechanism)
        if reason := reasons.get("mechanism"):
            fields = dict.fromkeys(dataclasses.asdict(self.mechanism), reason)
        return reasons | {f"mechanism.{name}": reason for name, reason in fields.items()}

    def check_effects(self) -> None:
        """Raise ConfigError if a setting other than by default or preset has no effect."""
        fields = type(self).model_fields | type(self.task).model_fields
        values = dict(self) | dict(self.task) | {"mechanism": self.mechanism.name}
        preset = self.task.preset(self.preset, values) if self.preset in self.task.presets else {}
        default = Mechanism(name=self.mechanism.name)
        gates = self.mechanism, default, MECHANISMS.get(default.name, default)
        for name, reason in self.unused().items():
            if name.startswith("mechanism."):
                whose, field = default.name, name.removeprefix("mechanism.")
                alike = [getattr(m, field) for m in gates]
            elif name in fields:
                whose = self.task.name
                alike = [values[name], fields[name].default, preset.get(name, "UR")]
            else:
                continue  # no setting
            if alike[0] not in alike[1:]:
                raise ConfigError(f"{name}={show(alike[0])} has no effect on {whose}: {reason}; "
                                  "remove it")  # fmt: skip

    def effective(self) -> dict[str, Any]:
        """The settings that have an effect, by dotted name."""
        names = self.unused()
        return {key: value for key, value in flat(self.model_dump(mode="json")).items()
                if key.removeprefix("task.") not in names}  # fmt: skip

    def differences(self, other: "Config") -> list[str]:
        """The effective fields in which two configurations differ, with both values."""
        here, there = self.effective(), other.effective()
        return [f"{name} ({there.get(name, 'none')} there, {here.get(name, 'none')} here)"
                for name in here | there if here.get(name) != there.get(name)]  # fmt: skip


def _gates(mechanism: str | Mechanism, settings: Mapping[str, Any], task: Task) -> Mechanism:
    """The mechanism with the fields of ``settings``, and the task's where neither sets them."""
    gates, fields = read_variant(mechanism)
    if isinstance(gates, Mechanism):
        fields = changed(gates, Mechanism(name=gates.name))
    for field, value in settings.items():
        if fields.setdefault(field, value) != value:
            raise ConfigError(f"mechanism.{field}={show(value)} contradicts {field}="
                              f"{show(fields[field])} of the mechanism: remove one")  # fmt: skip
    gates = gatecore.mechanism(gates, **fields)
    defaults = task.mechanism_defaults(gates)
    gates = gatecore.mechanism(gates, **defaults | fields)
    for field in defaults.keys() & type(task).model_fields:
        name = f"{field}={show(defaults[field])} of {task.name}"
        if (value := fields.get(field, defaults[field])) != defaults[field]:
            raise ConfigError(f"{name} contradicts mechanism.{field}={show(value)}: set {field} "
                              "alone")  # fmt: skip
        if reason := unused(gates).get(field):
            raise ConfigError(f"{name} has no effect on {gates.name}: {reason}")
    return gates


def explain(error: ValidationError) -> str:
    """Pydantic's errors in one line."""
    parts = []
    for detail in error.errors():
        message = detail["msg"].removeprefix("Value error, ")
        name = ".".join(map(str, detail["loc"]))
        if detail["type"] == "missing":
            message = f"{name} is missing"
        elif name:
            message = f"{name}={show(detail['input'])}: {message[0].lower()}{message[1:]}"
        parts.append(message)
    return "; ".join(parts)


def read_value(text: str) -> Any:
    """A value as JSON (5, true, null, [0.5, 0.05]), a number (.5, 1_000), True, None, or text."""
    for read in (json.loads, int, float) if any(map(str.isdigit, text)) else (json.loads,):
        with contextlib.suppress(ValueError, RecursionError):
            return read(text)
    return {"none": None, "true": True, "false": False}.get(text.lower(), text)


def first_equals(configs: Iterable[Config]) -> list[int]:
    """For each config the first that trains the same model, by its place; its name may differ."""
    places: dict[str, int] = {}
    settings = [{**config.effective(), "mechanism.name": None} for config in configs]
    return [places.setdefault(repr(sorted(one.items())), k) for k, one in enumerate(settings)]


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted names."""
    values: dict[str, Any] = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        values |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return values


def _sort(kind: type[Task], values: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """The values that belong to the task, to the run, and to the mechanism."""
    fields = [field.name for field in dataclasses.fields(Mechanism) if field.name != "name"]
    run_fields = [name for name in Config.model_fields if name not in ELSEWHERE]
    known = [*kind.model_fields, *run_fields, *(f"mechanism.{field}" for field in fields)]
    for key in values:
        if key in ELSEWHERE:
            raise ConfigError(f"unknown setting {key!r}: {ELSEWHERE[key]}")
        choice("setting", key, known)
    return (
        {key: value for key, value in values.items() if key in kind.model_fields},
        {key: value for key, value in values.items() if key in run_fields},
        {k.removeprefix("mechanism."): v for k, v in values.items() if k.startswith("mechanism.")},
    )
