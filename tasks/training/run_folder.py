"""A run is a directory: what is written there, how, and how it is read again.

``config.json``, ``metrics.jsonl``, ``checkpoint.safetensors``, ``state.json``,
``gates.safetensors``, ``summary.json``. Each tells by a checksum when it was damaged, and by the
checksum of the config when it is another run's. Nothing in them is executed when loaded.
"""

import contextlib
import dataclasses
import errno
import functools
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, TypeAdapter, ValidationError

from gatecore import Gate
from gatecore.tasks.training import atomic_files, metrics_log
from gatecore.tasks.training.atomic_files import Busy, RunError
from gatecore.tasks.training.config import Config, explain
from gatecore.tasks.training.provenance import environment

__all__ = ["FILES", "Busy", "Folder", "Run", "RunError", "load_run", "load_same"]

FILES = (
    "config.json", "metrics.jsonl", "checkpoint.safetensors", "state.json", "gates.safetensors",
    "summary.json",
)  # fmt: skip
_UNIDENTIFIED = (
    "environment",
    atomic_files.CHECKSUM,
)  # what in config.json does not make it another run


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its folder records it.

    ``metrics`` are the lines of metrics.jsonl: mappings with "step", "split" ("train" or
    "validation") and values; ``summary`` is None until the run has ended.
    """

    folder: Path
    config: Config
    environment: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any] | None
    identity: str = ""  # checksum of the recorded config

    @property
    def status(self) -> str:
        """ "finished", "diverged", or "unfinished"."""
        return self.summary["status"] if self.summary else "unfinished"

    def curve(self, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric, where it was finite."""
        points = [(line["step"], line[metric]) for line in self.metrics
                  if line["split"] == split and line.get(metric) is not None]  # fmt: skip
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps), np.array(values, dtype=float)

    def gates(self, when: str) -> Gate | None:
        """Mean effective forget gate of each unit, (layers, hidden), "before" or "after".

        Raises
        ------
        RunError
            If the file was damaged, or is another run's.
        """
        path = self.folder / "gates.safetensors"
        if not path.exists():
            return None
        tensors, about = atomic_files.read_tensors(path, unsigned=True)
        if about:
            _check_identity(path, about.get("config"), self.identity)
        sides = [tensors.get(f"{when}.{side}") for side in Gate._fields]
        return Gate(*sides) if all(side is not None for side in sides) else None


class _Summary(BaseModel):
    """What a summary must hold for its readers; JSON has null for what was not finite."""

    status: Literal["finished", "diverged"]
    step: int
    parameters: int
    seconds: float
    test: dict[str, float | None] | None
    metrics: list[int] | None = None
    timescales: dict[
        Literal["before", "after"], dict[Literal["smallest", "median", "largest"], float | None]
    ]


_MARK = TypeAdapter(metrics_log.Mark)


class Checkpoint(NamedTuple):
    """What a run needs to continue: tensors, the trainer's state, how far the metrics are."""

    tensors: dict[str, np.ndarray]
    state: Any
    metrics: metrics_log.Mark


class Folder:
    """The writing side of a run's folder. Every file but the metrics is replaced in one step."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def check_free(self) -> None:
        """Raise RunError if a new run cannot have the folder. Writes nothing."""
        try:
            held = [name for name in FILES if (self.path / name).exists()]
            nested = next((file.parent.name for file in self.path.glob("*/config.json")
                           if file.with_name("metrics.jsonl").exists()), None)  # fmt: skip
            _check_writable(self.path)
        except OSError as error:
            raise RunError(f"{self.path} cannot be an output folder: {error.strerror}") from error
        if "config.json" in held:
            raise RunError(f"{self.path} holds another run already ({', '.join(held)}): choose "
                           "another output folder, or continue that run with --resume")  # fmt: skip
        if held:
            raise RunError(f"{self.path} holds what is left of another run ({', '.join(held)}); "
                           "config.json is missing, so it cannot be continued: choose another "
                           "output folder")  # fmt: skip
        if nested:
            raise RunError(f"{self.path} is a folder of runs ({nested}, ...): name a new folder, "
                           f"for example {self.path / 'new'}")  # fmt: skip

    def holds_run(self) -> bool:
        """Whether there is a config. Raises RunError if one cannot look."""
        try:
            return (self.path / "config.json").exists()
        except OSError as error:
            raise RunError(f"{self.path} cannot be an output folder: {error.strerror}") from error

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, and keep other processes from training there.

        Raises
        ------
        RunError
            That cannot be; :class:`Busy` where another process trains there.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            claim = atomic_files.lock(self.path)
            claim.__enter__()
        except OSError as error:
            raise RunError(f"{self.path} cannot be an output folder: {error.strerror}") from error
        with contextlib.ExitStack() as stack:
            stack.push(claim.__exit__)
            yield

    def create(self, config: Config) -> None:
        """Start a new run. Raises RunError if the folder cannot have one."""
        self.check_free()
        record = config.model_dump(mode="json") | {"environment": environment(config.backend)}
        self.write_json("config.json", record)

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Replace a file by a JSON object with its checksum."""
        atomic_files.write_json(self.path / name, value)

    @functools.cached_property
    def identity(self) -> str:
        """The checksum of the recorded config, which all files of the run carry."""
        return (
            _identity(atomic_files.read_json(self.path / "config.json")) if self.holds_run() else ""
        )

    @functools.cached_property
    def metrics(self) -> metrics_log.Log:
        """The log of metrics.jsonl."""
        return metrics_log.Log(self.path / "metrics.jsonl", self.identity)

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics, and flush it."""
        self.metrics.append(line)

    def save_gates(self, **gates: Gate) -> None:
        """Keep gates under the names "before" and "after"."""
        tensors = {
            f"{when}.{side}": array
            for when, gate in gates.items()
            for side, array in gate._asdict().items()
        }
        atomic_files.write_tensors(
            self.path / "gates.safetensors", tensors, {"config": self.identity}
        )

    def save_checkpoint(self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Keep what a run needs to continue.

        The state travels inside the tensors' file, with how far the metrics are, so that nothing
        can disagree; state.json is a copy of it for whoever watches the run.
        """
        self.metrics.sync()
        about = {"config": self.identity, "state": state, "metrics": self.metrics.mark}
        atomic_files.write_tensors(self.path / "checkpoint.safetensors", tensors, about)
        self.write_json("state.json", {**state, "metrics": self.metrics.mark})

    def load_checkpoint(self) -> Checkpoint | None:
        """The last checkpoint, if there is one. RunError if it was damaged or is another run's."""
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        tensors, about = atomic_files.read_tensors(path)
        try:
            state, mark = about["state"], _MARK.validate_python(about["metrics"])
        except (KeyError, ValidationError) as error:
            raise RunError(f"{path} is not a checkpoint of gatecore: it lacks a state") from error
        _check_identity(path, about.get("config"), self.identity)
        return Checkpoint(tensors, state, mark)

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """End the run."""
        self.metrics.sync()
        self.write_json(
            "summary.json", {**summary, "config": self.identity, "metrics": self.metrics.mark}
        )


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run's folder.

    Raises
    ------
    RunError
        If the folder holds no run, or one that cannot be understood, or whose files were damaged
        or do not belong together: values that the run did not write are never returned.
    """
    folder = Path(path)
    if not Folder(folder).holds_run():
        raise RunError(f"{folder} holds no run: there is no config.json")
    record = atomic_files.read_json(folder / "config.json")
    described = record.get("environment", {})
    if not isinstance(described, dict):
        raise RunError(f"{folder / 'config.json'} should hold an object as environment")
    try:
        config = Config.model_validate(
            {name: value for name, value in record.items() if name not in _UNIDENTIFIED}
        )
    except ValidationError as error:
        raise RunError(f"{folder / 'config.json'} is no config: {explain(error)}") from error
    atomic_files.verify(folder / "config.json", record)
    identity = _identity(record)
    reached = _reached(folder)  # before the metrics: a run in progress writes it after them
    summary, end = _read_summary(folder, identity, config.task.score)
    metrics, marks = metrics_log.read(folder / "metrics.jsonl", identity)
    for mark in (reached, end):
        if mark is not None:
            metrics_log.check_mark(folder / "metrics.jsonl", marks, mark)
    return Run(folder, config, described, metrics, summary, identity)


def load_same(path: str | os.PathLike[str], config: Config) -> Run:
    """:func:`load_run`, for who wants to continue it: RunError if its config is another."""
    run = load_run(path)
    if differences := config.differences(run.config):
        raise RunError(f"{path} holds a run of another config: {', '.join(differences)}; remove "
                       "that folder, or choose another output folder")  # fmt: skip
    return run


def _check_writable(path: Path) -> None:
    """Raise OSError if ``path`` cannot be made or written: looks at what exists of it."""
    path = path.absolute()
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _identity(record: Mapping[str, Any]) -> str:
    return atomic_files.digest({k: v for k, v in record.items() if k not in _UNIDENTIFIED})


def _check_identity(path: Path, found: Any, identity: str) -> None:
    if found != identity:
        raise RunError(f"{path} is of another run: its config is not that of config.json")


def _reached(folder: Path) -> metrics_log.Mark | None:
    """How far the metrics were at the last checkpoint, if the copy of its state can say."""
    try:
        state = atomic_files.read_json(folder / "state.json")
        return _MARK.validate_python(atomic_files.verify(folder / "state.json", state)["metrics"])
    except (KeyError, RunError, ValidationError):
        return None  # nothing is read from the copy but this


def _read_summary(
    folder: Path, identity: str, score: str
) -> tuple[dict[str, Any] | None, metrics_log.Mark | None]:
    path = folder / "summary.json"
    if not path.exists():
        return None, None
    summary = atomic_files.read_json(path)
    try:
        read = _Summary.model_validate(summary, strict=True)
    except ValidationError as error:
        raise RunError(f"{path} is no summary: {explain(error)}") from error
    if len(read.timescales) < 2 or any(len(told) < 3 for told in read.timescales.values()):
        raise RunError(f"{path} lacks timescales from before or after the training")
    if read.status == "finished" and score not in (read.test or {}):
        raise RunError(f"{path} calls the run finished, but lacks the {score} on the test set")
    summary = atomic_files.verify(path, summary)
    if "config" in summary:
        _check_identity(path, summary.pop("config"), identity)
    mark = summary.pop("metrics", None)
    return summary, None if mark is None else _MARK.validate_python(mark)
