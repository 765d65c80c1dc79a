"""The configuration of a sweep: all combinations of mechanisms, learning rates, seeds, settings."""

import contextlib
import dataclasses
import itertools
import json
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, InstanceOf, PlainSerializer

from gatecore import MECHANISMS, Mechanism
from gatecore._checks import choice
from gatecore.tasks.problems.base import Count, Positive, Seed, Settings
from gatecore.tasks.safe_files import reason
from gatecore.tasks.training import config as run_config
from gatecore.tasks.training.config import (
    Config,
    ConfigError,
    changed,
    config_errors,
    read_mechanism,
    read_variant,
)
from gatecore.tasks.training.run import load_run, load_same
from gatecore.tasks.training.run_folder import Folder, RunError, subfolder

LONGEST_NAME = 200  # of a folder, in characters; file systems take 255 bytes
MOST_TRIALS = 10_000
_ELSEWHERE = {"learning_rate": "lr", "seed": "seeds", "mechanism": "mechanisms"}  # keys of a sweep
_ELSEWHERE |= {key: key for key in ("core", "backend", "steps", "threads", "preset", "task")}


def _values(value: Any) -> Any:
    """A list; from text "a,b" its parts, from a single value that value."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    values = value if isinstance(value, list | tuple | range) else [value]
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int | float | str | Mapping | Mechanism):
            kind = "true or false" if isinstance(one, bool) else type(one).__name__
            raise ValueError(f"a list should hold numbers or names, not {kind}")
    return values


def _seeds(value: Any) -> Any:
    """A list of seeds; from a number n the seeds 0 to n − 1."""
    if isinstance(value, str):
        alone = value.strip()
        value = int(alone[:99]) if alone.isdecimal() else _values(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not (isinstance(value, int) and 1 <= value <= 10_000):
            raise ValueError("a number of seeds should be 1 to 10000; a list names them: 0,1,5")
        return list(range(value))
    return _values(value)


def _mechanisms(value: Any) -> Any:
    """A list of names, and of Mechanisms where one has other fields than its name stands for."""
    if value == "all":
        return value
    if isinstance(value, str):
        return read_mechanisms(value)
    return [_mechanism(one) for one in ([value] if isinstance(value, Mapping) else _values(value))]


def read_mechanisms(text: str) -> list[str | Mechanism]:
    """The mechanisms of names with commas between, also with fields, as "U,C(t_max=8)".

    ConfigError if a name or a field is unknown, or a value invalid.
    """
    return [_mechanism(one) for one in re.split(r",(?![^(]*\))", text)]


def _mechanism(one: Any) -> str | Mechanism:
    """A name; a Mechanism with other fields; or text with fields that are those of its name.

    A task may have other defaults for the latter: text tells that they were set.
    """
    one = one.strip() if isinstance(one, str) else one
    read, (_, fields) = read_mechanism(one), read_variant(one)
    if "name" not in fields and fields.keys() - changed(read):
        return one
    return read if changed(read, Mechanism(name="")) else read.name


def _settings(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for name in value:
        if name in _ELSEWHERE:
            raise ValueError(f"{name} is set by the key {_ELSEWHERE[name]} of a sweep")
    return {name: v if isinstance(v, list | tuple) else [v] for name, v in value.items()}


class SweepConfig(Settings):
    """The configuration of a sweep. Build one with :meth:`of`.

    The trials are all combinations of the values in ``mechanisms``, ``lr``, ``seeds``, ``core`` and
    ``set``. Each of these is a list, one value, or text with commas ("U,UR").

    ``mechanisms`` are names, also with fields, as text ("C(t_max=8)") or as
    :class:`gatecore.Mechanism` values; "all" are those of :data:`gatecore.MECHANISMS` that the task
    can use. ``lr`` are learning rates of Adam. One number n as ``seeds`` stands for 0 to n − 1.
    ``set`` maps further settings by the names of :meth:`gatecore.tasks.Config.of` to their values.
    ``preset`` is "quick" or "paper", ``backend`` by default "numpy", or "torch" for cores that only
    torch has, and ``steps`` the training steps of each trial.

    The folder ``out`` holds a folder for each trial. There are so many ``workers``, processes on
    this machine, by default as its cores allow, and ``threads`` of BLAS for each; or the workers of
    a scheduler at the address ``dask`` train, and see ``out`` at the same path. By default learning
    rate, steps and threads are the preset's.
    """

    task: str
    mechanisms: Annotated[
        Literal["all"]
        | tuple[str | Annotated[InstanceOf[Mechanism], PlainSerializer(dataclasses.asdict)], ...],
        BeforeValidator(_mechanisms), Field(min_length=1)] = "all"  # fmt: skip
    lr: Annotated[tuple[Positive, ...], BeforeValidator(_values)] = ()
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(_seeds), Field(min_length=1)] = (0,)
    core: Annotated[tuple[str, ...], BeforeValidator(_values), Field(min_length=1)] = ("lstm",)
    preset: str = "quick"
    backend: str | None = None
    steps: Count | None = None
    set: Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]],
                   BeforeValidator(_settings)] = {}  # noqa: RUF012  # fmt: skip
    out: Annotated[Path, PlainSerializer(str)]
    workers: int | None = Field(None, ge=1, le=1024)
    threads: int | None = Field(None, ge=1, le=1024)
    dask: str | None = Field(None, min_length=1)

    @classmethod
    def of(cls, task: str, /, **settings: Any) -> Self:
        """A sweep over a task; the default of ``out`` is runs/TASK-sweep.

        ConfigError if a key is unknown (the message offers the nearest), or a value is invalid.

        >>> config = SweepConfig.of("copying", mechanisms="U,UR", lr=[1e-3, 2e-3], seeds=3)
        >>> len(config.trials()[0])
        12
        >>> config.trials()[0][0].name
        'copying-U-lr0.001-seed0'
        """
        with config_errors():
            for name in settings:
                choice("key", name, [name for name in cls.model_fields if name != "task"])
            return cls(**{"task": task, "out": Path("runs") / f"{task}-sweep", **settings})

    def trials(self) -> tuple[list["Trial"], list[str]]:
        """All trials, seed by seed, and why others were left out.

        These are trials of mechanisms that the task cannot use, if they are "all", and trials that
        would train the model of an earlier one under another name. ConfigError if combinations are
        invalid, or two trials have the same name.
        """
        trials, points = [], list(self._points())
        invalid: dict[str, list[str]] = {}  # mechanisms by the reason
        for point in points:
            try:
                name, gates = _name(self, point), variant_name(point["mechanism"])
                trials.append(Trial(name, _config(self, point), gates))
            except ConfigError as error:
                invalid.setdefault(str(error), []).append(variant_name(point["mechanism"]))
        reasons = [why if len(names) == len(points) else f"{', '.join(dict.fromkeys(names))}: {why}"
                   for why, names in invalid.items()]  # fmt: skip
        if reasons and (self.mechanisms != "all" or not trials):
            raise ConfigError("; ".join(reasons))
        equals = run_config.first_equals(trial.config for trial in trials)
        twins = [(one, trials[k]) for one, k in zip(trials, equals, strict=True)
                 if one.gates != trials[k].gates]  # fmt: skip
        reasons += dict.fromkeys(f"{one.gates}: trains the model of {first.gates}"
                                 for one, first in twins)  # fmt: skip
        left_out = {one.name for one, _ in twins}
        trials = [trial for trial in trials if trial.name not in left_out]
        seen: dict[str, str] = {}
        for name in (trial.name for trial in trials):
            if len(name) > LONGEST_NAME:
                raise ConfigError(f"the name {name} is longer than {LONGEST_NAME} characters: vary "
                                  "fewer settings, or shorter values")  # fmt: skip
            if other := seen.get(name.lower()):
                both = name if other == name else f"{other} and {name}"
                raise ConfigError(f"{both} given twice: each trial needs a folder of its own; "
                                  "remove one")  # fmt: skip
            seen[name.lower()] = name
        return trials, reasons

    def _points(self) -> Iterator[dict[str, Any]]:
        """A value on every axis; seeds vary last, so that the first results compare the rest."""
        mechanisms = MECHANISMS if self.mechanisms == "all" else self.mechanisms
        axes = {"seed": self.seeds, **self.set, "learning_rate": self.lr or (None,),
                "core": self.core, "mechanism": mechanisms}  # fmt: skip
        if (count := math.prod(map(len, axes.values()))) > MOST_TRIALS:
            raise ConfigError(f"{count:,} combinations are more than {MOST_TRIALS:,}: vary less")
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep, and its name among them."""

    name: str
    config: Config
    gates: str = ""  # the mechanism's name, with the fields that make it a variant


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a sweep's TOML file. Raises ConfigError if it cannot be read."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {reason(error)}") from error
    except (ValueError, RecursionError) as error:  # of TOML and of Unicode
        raise ConfigError(f"{path} is no TOML: {error}") from error


def place(trials: Sequence[Trial], out: Path) -> dict[str, Path]:
    """The folder of each trial: where ``out`` holds a run of its config, else one of its name.

    RunError if ``out`` is a run's folder, or the folder of a trial holds another run.
    """
    if Folder(out).holds_run():
        raise RunError(f"{out} holds a run itself: choose another output folder for a sweep")
    folders = {trial.name: subfolder(out, trial.name) for trial in trials}
    missing = {}
    for trial in trials:
        if (folder := Folder(folders[trial.name])).holds_run():
            load_same(folder.path, trial.config)
        else:
            folder.check_free()
            missing[trial.name] = trial.config.effective()
    for file in reversed(sorted(out.glob("*/config.json")) if missing else []):
        with contextlib.suppress(RunError):
            run = load_run(subfolder(out, file.parent.name))
            effective = run.config.effective()
            same = [name for name, settings in missing.items() if settings == effective]
            folders |= dict.fromkeys(same, run.folder)
    return folders


def _config(sweep: SweepConfig, point: Mapping[str, Any]) -> Config:
    settings = {name: value for name, value in point.items() if name != "mechanism"}
    settings |= {"backend": sweep.backend, "steps": sweep.steps, "threads": sweep.threads}
    optional = ("backend", "learning_rate", "steps", "threads")  # None: the preset's
    settings = {k: v for k, v in settings.items() if v is not None or k not in optional}
    return Config.of(sweep.task, point["mechanism"], sweep.preset, **settings)


def _name(sweep: SweepConfig, point: Mapping[str, Any]) -> str:
    """Task, mechanism, the settings that vary, and seed."""
    core = [] if point["core"] == "lstm" else [point["core"]]
    parts = [sweep.task, *core, variant_name(point["mechanism"])]
    if len(sweep.lr) > 1:
        parts.append(f"lr{point['learning_rate']!r}")
    parts += [f"{k}={_plain(point[k])}" for k, values in sweep.set.items() if len(values) > 1]
    return "-".join([*parts, f"seed{point['seed']}"])


def variant_name(gates: str | Mechanism) -> str:
    """A name for a folder: the mechanism's, with the fields that differ from those it stands for.

    >>> variant_name("UR(refine_bias=opposed)")
    'UR-refine_bias=opposed'
    """
    name, fields = read_variant(gates)
    if isinstance(gates, Mechanism):
        name, fields = gates.name, changed(gates)
    return "-".join([_plain(name), *(f"{k}={_plain(v)}" for k, v in fields.items())])


def _plain(value: Any) -> str:
    """A value in characters that are valid in every file system."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return re.sub(r"[^\w.,+=-]+", "_", text, flags=re.ASCII).strip("_")
