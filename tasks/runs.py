"""A run is a directory: what is written there, how, and how it is read again.

``config.json``, ``metrics.jsonl``, ``checkpoint.safetensors``, ``state.json``,
``gates.safetensors``, ``summary.json``. Nothing in them is executed when loaded.
"""

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ValidationError

from gatecore import Gate
from gatecore.tasks.config import Config, explain
from gatecore.tasks.environment import environment

FILES = (
    "config.json", "metrics.jsonl", "checkpoint.safetensors", "state.json", "gates.safetensors",
    "summary.json",
)  # fmt: skip


class RunError(Exception):
    """A run's folder that cannot be used; the message names it and says what to do."""


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
        """Mean effective forget gate of each unit, (layers, hidden), "before" or "after"."""
        path = self.folder / "gates.safetensors"
        tensors = _load(path)[0] if path.exists() else {}
        sides = [tensors.get(f"{when}.{side}") for side in Gate._fields]
        return Gate(*sides) if all(side is not None for side in sides) else None


class _Summary(BaseModel):
    """What a summary must hold for its readers; JSON has null for what was not finite."""

    status: Literal["finished", "diverged"]
    step: int
    parameters: int
    seconds: float
    test: dict[str, float | None] | None
    timescales: dict[
        Literal["before", "after"], dict[Literal["smallest", "median", "largest"], float | None]
    ]


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

    def create(self, config: Config) -> None:
        """Claim the folder for a new run. Raises RunError if that cannot be."""
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"{self.path} cannot be an output folder: {error.strerror}") from error
        record = config.model_dump(mode="json") | {"environment": environment(config.backend)}
        self.write_json("config.json", record)

    def write_json(self, name: str, value: Any) -> None:
        self.write(name, (json.dumps(_finite(value), indent=2) + "\n").encode())

    def write(self, name: str, data: bytes) -> None:
        """Replace a file in one step: a kill at any moment leaves the old one or the new one."""
        path = self.path / name
        try:
            _replace(path, data)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror}") from error

    def append(self, line: Mapping[str, Any]) -> None:
        """Add a line to the metrics, and flush it."""
        try:
            with open(self.path / "metrics.jsonl", "a", encoding="utf-8") as stream:
                stream.write(json.dumps(_finite(line)) + "\n")
        except OSError as error:
            raise RunError(f"cannot write {self.path}/metrics.jsonl: {error.strerror}") from error

    def save_gates(self, **gates: Gate) -> None:
        """Keep gates under the names "before" and "after"."""
        tensors = {
            f"{when}.{side}": array
            for when, gate in gates.items()
            for side, array in gate._asdict().items()
        }
        self.write("gates.safetensors", safetensors.numpy.save(_contiguous(tensors)))

    def save_checkpoint(self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Keep what a run needs to continue.

        The state travels inside the tensors' file, so that the two cannot disagree; state.json is
        a copy of it for whoever watches the run.
        """
        metadata = {"state": json.dumps(state)}
        data = safetensors.numpy.save(_contiguous(tensors), metadata=metadata)
        self.write("checkpoint.safetensors", data)
        self.write_json("state.json", state)

    def load_checkpoint(self) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Tensors and state of the last checkpoint, if there is one."""
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return None
        tensors, metadata = _load(path)
        try:
            return tensors, json.loads(metadata["state"])
        except (KeyError, json.JSONDecodeError) as error:
            raise RunError(f"{path} is not a checkpoint of gatecore: it lacks a state") from error

    def rewind(self, step: int) -> None:
        """Forget the metrics of steps after ``step``: they will come again."""
        kept = [line for line in _read_metrics(self.path) if line["step"] <= step]
        self.write("metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept).encode())


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run's folder.

    Raises
    ------
    RunError
        If the folder holds no run, or one that cannot be understood.
    """
    folder = Path(path)
    if not (folder / "config.json").exists():
        raise RunError(f"{folder} holds no run: there is no config.json")
    record = _read_json(folder / "config.json")
    described = record.pop("environment", {})
    try:
        config = Config.model_validate(record)
    except ValidationError as error:
        raise RunError(f"{folder / 'config.json'} is no config: {explain(error)}") from error
    return Run(folder, config, described, _read_metrics(folder), _read_summary(folder))


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


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")  # what a killed run left is written over
    try:
        with open(temporary, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(path.parent, os.O_RDONLY)  # the rename itself must reach the disk, too
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} should hold a JSON object, not {type(value).__name__}")
    return value


def _read_summary(folder: Path) -> dict[str, Any] | None:
    path = folder / "summary.json"
    if not path.exists():
        return None
    summary = _read_json(path)
    try:
        read = _Summary.model_validate(summary, strict=True)
    except ValidationError as error:
        raise RunError(f"{path} is no summary: {explain(error)}") from error
    if len(read.timescales) < 2 or any(len(told) < 3 for told in read.timescales.values()):
        raise RunError(f"{path} lacks timescales from before or after the training")
    if read.status == "finished" and "loss" not in (read.test or {}):
        raise RunError(f"{path} calls the run finished, but lacks the loss on the test set")
    return summary


def _read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines that were written completely: a killed run may have left half of one."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        metrics = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(metrics, start=1):
        if not _is_metrics(line):
            raise RunError(f"{path}, line {number}, should be an object with step, split and "
                           f"numbers, not {str(line)[:80]}")  # fmt: skip
    return metrics


def _is_metrics(line: Any) -> bool:
    """Whether it has an integer step, a split, and else numbers or null."""
    if not isinstance(line, dict) or line.get("split") not in ("train", "validation"):
        return False
    values = [value for name, value in line.items() if name != "split"]
    return type(line.get("step")) is int and all(
        value is None or type(value) in (int, float) for value in values
    )


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, file.metadata() or {}
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _contiguous(tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {name: np.asarray(tensor, order="C") for name, tensor in tensors.items()}


def _finite(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
