"""What a sweep is: every combination of mechanisms, learning rates, seeds and other settings."""

import dataclasses
import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError

from gatecore import MECHANISMS, mechanism
from gatecore._checks import choice
from gatecore.tasks.problems.base import Settings
from gatecore.tasks.training.config import Config, ConfigError, explain
from gatecore.tasks.training.run_folder import Folder, RunError, load_run, load_same

LONGEST_NAME = 200  # of a folder, in characters; file systems take 255 bytes
_ELSEWHERE = {  # settings of a run that are keys of a sweep themselves
    "learning_rate": "lr", "seed": "seeds", "mechanism": "mechanisms", "core": "core",
    "backend": "backend", "steps": "steps", "threads": "threads", "preset": "preset",
    "task": "task",
}  # fmt: skip


def _values(value: Any) -> Any:
    """ "a,b" and a single value are lists, too."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    values = value if isinstance(value, Sequence) else [value]
    if any(isinstance(one, bool) for one in values):
        raise ValueError("a list of numbers or names holds no true or false")
    return values


def _seeds(value: Any) -> Any:
    """A number n stands for the seeds 0 to n − 1."""
    if isinstance(value, str):
        value = int(value) if value.strip().isdecimal() else _values(value)
    if type(value) is int:
        if not 1 <= value <= 10_000:
            raise ValueError("a number of seeds should be 1 to 10000; a list names them: 0,1,5")
        return list(range(value))
    return _values(value)


def _mechanisms(value: Any) -> Any:
    if value == "all":
        return value
    return [mechanism(name).name for name in _values(value)]


def _settings(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    for name in value:
        if name in _ELSEWHERE:
            raise ValueError(f"{name} has a key of its own: {_ELSEWHERE[name]}")
    return {name: v if isinstance(v, list | tuple) else [v] for name, v in value.items()}


class SweepConfig(Settings):
    """Everything that a sweep needs to know. Build one with :meth:`of`.

    Every list is an axis, and the trials are all combinations: ``mechanisms`` ("all": the nine of
    ``gatecore.MECHANISMS`` that the task can use), ``lr`` (empty: the preset's), ``seeds`` (a list,
    or a number n for 0 to n − 1), ``core``, and each setting in ``set``, by the names of
    :meth:`gatecore.tasks.Config.of`.

    ``workers`` are processes on this machine (default: as many as its cores allow), ``threads`` the
    BLAS threads of each (default: the preset's); ``dask`` is the address of a scheduler whose
    workers train instead, and must see ``out`` under the same path.
    """

    task: str
    mechanisms: Annotated[
        Literal["all"] | tuple[str, ...], BeforeValidator(_mechanisms), Field(min_length=1)
    ] = "all"
    lr: Annotated[tuple[float, ...], BeforeValidator(_values)] = ()
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seeds), Field(min_length=1)
    ] = (0,)
    core: Annotated[tuple[str, ...], BeforeValidator(_values), Field(min_length=1)] = ("lstm",)
    preset: str = "quick"
    backend: str | None = None
    steps: int | None = Field(None, ge=1)
    set: Annotated[
        dict[str, Annotated[list[Any], Field(min_length=1)]], BeforeValidator(_settings)
    ] = {}  # noqa: RUF012
    out: Annotated[Path, PlainSerializer(str)]
    workers: int | None = Field(None, ge=1, le=1024)
    threads: int | None = Field(None, ge=1)
    dask: str | None = Field(None, min_length=1)

    @classmethod
    def of(cls, task: str, /, **settings: Any) -> Self:
        """A sweep over a task; ``out`` is by default runs/TASK-sweep.

        Raises
        ------
        ConfigError
            An unknown key (the nearest is offered) or an impossible value.

        Examples
        --------
        >>> config = SweepConfig.of("copying", mechanisms="U,UR", lr=[1e-3, 2e-3], seeds=3)
        >>> len(config.trials()[0])
        12
        >>> config.trials()[0][0].name
        'copying-U-lr0.001-seed0'
        """
        try:
            for name in settings:
                choice("key", name, [name for name in cls.model_fields if name != "task"])
            return cls(**{"task": task, "out": Path("runs") / f"{task}-sweep", **settings})
        except ValidationError as error:
            raise ConfigError(explain(error)) from error
        except (TypeError, ValueError) as error:
            raise ConfigError(str(error)) from error

    def trials(self) -> tuple[list["Trial"], list[str]]:
        """All trials, seed by seed, and what was left out of "all" mechanisms, and why.

        Raises
        ------
        ConfigError
            A combination cannot be (all that cannot are told), or two have the same name.
        """
        trials, points = [], list(self._points())
        refused: dict[str, list[str]] = {}
        for point in points:
            try:
                trials.append(Trial(_name(self, point), _config(self, point)))
            except ConfigError as error:
                refused.setdefault(str(error), []).append(point["mechanism"])
        told = [why if len(names) == len(points) else f"{', '.join(dict.fromkeys(names))}: {why}"
                for why, names in refused.items()]  # fmt: skip
        if told and (self.mechanisms != "all" or not trials):
            raise ConfigError("; ".join(told))
        _check_names([trial.name for trial in trials])
        return trials, told

    def _points(self) -> Iterator[dict[str, Any]]:
        """A value on every axis; seeds vary last, so that what is done soon compares the rest."""
        axes = {
            "seed": self.seeds,
            **self.set,
            "learning_rate": self.lr or (None,),
            "core": self.core,
            "mechanism": MECHANISMS if self.mechanisms == "all" else self.mechanisms,
        }
        for values in itertools.product(*axes.values()):
            yield dict(zip(axes, values, strict=True))


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of a sweep, with the name that distinguishes it among them."""

    name: str
    config: Config


def read_toml(path: Path) -> dict[str, Any]:
    """The keys of a sweep's TOML file. Raises ConfigError if it is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:  # TOML's and Unicode's errors are such
        raise ConfigError(f"{path} is no TOML: {error}") from error


def place(trials: Sequence[Trial], out: Path) -> dict[str, Path]:
    """The folder of each trial: that of a run of its config in ``out``, if there is one.

    Raises
    ------
    RunError
        ``out`` cannot be the folder of a sweep, or a trial's folder holds something else.
    """
    if Folder(out).holds_run():
        raise RunError(f"{out} holds a run itself: choose another output folder for a sweep")
    there = {trial.name: _look(out / trial.name, trial.config) for trial in trials}
    if all(there.values()):
        return {trial.name: out / trial.name for trial in trials}
    others = _configs(out)
    return {
        trial.name: out / trial.name if there[trial.name] else
        next((folder for folder, config in others if config == trial.config), out / trial.name)
        for trial in trials
    }  # fmt: skip


def _look(folder: Path, config: Config) -> bool:
    """Whether the folder holds the run of this config; RunError if it holds anything else."""
    if Folder(folder).holds_run():
        load_same(folder, config)
        return True
    Folder(folder).check_free()
    return False


def _configs(out: Path) -> list[tuple[Path, Config]]:
    """The readable runs directly below ``out``; the others are nobody's here."""
    found = []
    for file in sorted(out.glob("*/config.json")):
        try:
            found.append((file.parent, load_run(file.parent).config))
        except RunError:
            continue
    return found


def _config(sweep: SweepConfig, point: Mapping[str, Any]) -> Config:
    settings = {name: value for name, value in point.items() if name != "mechanism"}
    settings |= {"backend": sweep.backend, "steps": sweep.steps, "threads": sweep.threads}
    left = ("backend", "learning_rate", "steps", "threads")  # None: the preset's
    chosen = {k: v for k, v in settings.items() if k not in left or v is not None}
    return Config.of(sweep.task, point["mechanism"], sweep.preset, **chosen)


def _name(sweep: SweepConfig, point: Mapping[str, Any]) -> str:
    """The task, the mechanism, the seed, and between them the settings that vary."""
    parts = [sweep.task]
    if point["core"] != "lstm":
        parts.append(point["core"])
    parts.append(point["mechanism"])
    if len(sweep.lr) > 1:
        parts.append(f"lr{point['learning_rate']!r}")
    parts += [f"{k}={_plain(point[k])}" for k, values in sweep.set.items() if len(values) > 1]
    return "-".join([*parts, f"seed{point['seed']}"])


def _plain(value: Any) -> str:
    """A value in characters that every file system takes."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    return re.sub(r"[^\w.,+=-]+", "_", text, flags=re.ASCII).strip("_")


def _check_names(names: Sequence[str]) -> None:
    seen: dict[str, str] = {}
    for name in names:
        if len(name) > LONGEST_NAME:
            raise ConfigError(f"the name {name} is longer than {LONGEST_NAME} characters: vary "
                              "fewer settings, or shorter values")  # fmt: skip
        if (other := seen.setdefault(name.lower(), name)) != name or names.count(name) > 1:
            both = name if other == name else f"{other} and {name}"
            raise ConfigError(f"{both} given twice: each trial needs a folder of its own")
