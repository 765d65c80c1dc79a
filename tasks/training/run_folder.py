"""The files of a run, and how they are written.

All but the metrics are replaced atomically. Each carries a checksum of its content and that of its
config (``identity``), to detect damage and files of another run. Reading them executes nothing.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from gatecore import Gate
from gatecore.tasks.training import atomic_files, metrics_log
from gatecore.tasks.training.atomic_files import DamagedError, RunError, output_folder
from gatecore.tasks.training.config import Config
from gatecore.tasks.training.folder_lock import lock
from gatecore.tasks.training.provenance import environment

FILES = ("config.json", "metrics.jsonl", "checkpoint.safetensors", "state.json",
         "gates.safetensors", "summary.json")  # fmt: skip
UNIDENTIFIED = ("environment", atomic_files.CHECKSUM)  # of config.json: not part of the identity
MARK = TypeAdapter(metrics_log.Mark)


class Checkpoint(NamedTuple):
    """The learner's tensors, the trainer's state, and the length of the log."""

    tensors: dict[str, np.ndarray]
    state: Any
    metrics: metrics_log.Mark


class Folder:
    """Writes the files of a run."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def check_free(self) -> None:
        """Raise RunError if a new run cannot use the folder. Writes nothing."""
        with output_folder(self.path):
            present = [name for name in FILES if os.path.lexists(self.path / name)]
            nested = next((file.parent.name for file in self.path.glob("*/config.json")
                           if file.with_name("metrics.jsonl").exists()), None)  # fmt: skip
            path = self.path.absolute()
            nearest = next(parent for parent in (path, *path.parents) if parent.exists())
            if not nearest.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            if not os.access(nearest, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if "config.json" in present:
            raise RunError(f"{self.path} holds another run already ({', '.join(present)}): choose "
                           "another output folder, or continue that run with --resume")  # fmt: skip
        if present:
            raise RunError(f"{self.path} holds what is left of another run ({', '.join(present)}); "
                           "config.json is missing, so it cannot be continued: choose another "
                           "output folder")  # fmt: skip
        if nested:
            raise RunError(f"{self.path} is a folder of runs ({nested}, ...): name a new folder, "
                           f"for example {self.path / 'new'}")  # fmt: skip

    def holds_run(self) -> bool:
        """Whether there is a config. Raises RunError if the folder cannot be searched."""
        with output_folder(self.path):
            (self.path / "config.json").exists()  # raises an error that lexists() hides
            return os.path.lexists(self.path / "config.json")

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Make and lock the folder, and remove unfinished files. RunError; Busy if it is in use."""
        with contextlib.ExitStack() as stack:
            with output_folder(self.path):
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock(self.path))
                remove_parts(self.path, FILES)
            yield

    def create(self, config: Config) -> None:
        """Start a new run in a folder that is free."""
        record = config.model_dump(mode="json") | {"environment": environment(config.backend)}
        atomic_files.write_json(self.path / "config.json", record)

    @functools.cached_property
    def identity(self) -> str:
        """The checksum of the recorded config; empty without one."""
        path = self.path / "config.json"
        return identity(atomic_files.read_json(path)) if self.holds_run() else ""

    @functools.cached_property
    def metrics(self) -> metrics_log.Log:
        """The log of metrics.jsonl."""
        return metrics_log.Log(self.path / "metrics.jsonl", self.identity)

    def save_gates(self, **gates: Gate) -> None:
        """Write gates under the names "before" and "after", also with "main " before them."""
        tensors = {f"{when}.{side}": array for when, gate in gates.items()
                   for side, array in gate._asdict().items()}  # fmt: skip
        about = {"config": self.identity}
        atomic_files.write_tensors(self.path / "gates.safetensors", tensors, about)

    def save_checkpoint(self, tensors: Mapping[str, np.ndarray], state: Mapping[str, Any]) -> None:
        """Write what a run needs to continue in one file, so that its parts always agree."""
        self.metrics.sync()
        about = {"config": self.identity, "state": state, "metrics": self.metrics.mark}
        atomic_files.write_tensors(self.path / "checkpoint.safetensors", tensors, about)
        self.save_state(state, self.metrics.mark)

    def save_state(self, state: Mapping[str, Any], mark: metrics_log.Mark) -> None:
        """Write the readable copy of a checkpoint's state."""
        atomic_files.write_json(self.path / "state.json", {**state, "metrics": mark})

    def load_checkpoint(self, limit: int = 1 << 40) -> Checkpoint | None:
        """The last checkpoint, of at most ``limit`` bytes, or None. Raises DamagedError."""
        path = self.path / "checkpoint.safetensors"
        if not os.path.lexists(path):
            return None
        tensors, about = atomic_files.read_tensors(path, limit=limit)
        try:
            state, mark = about["state"], MARK.validate_python(about["metrics"])
        except (KeyError, ValidationError) as error:
            raise DamagedError(path, "is not a checkpoint of gatecore: it lacks a state") from error
        check_identity(path, about.get("config"), self.identity)
        return Checkpoint(tensors, state, mark)

    def save_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the results, which ends the run."""
        self.metrics.sync()
        ending = {"config": self.identity, "metrics": self.metrics.mark}
        atomic_files.write_json(self.path / "summary.json", {**summary, **ending})


def remove_parts(folder: Path, names: Iterable[str]) -> None:
    """Remove files that killed processes left unfinished. The folder must be locked."""
    for name in names:
        for part in folder.glob(f".{name}*.part"):
            with contextlib.suppress(OSError):
                part.unlink()


def subfolder(folder: Path, name: str) -> Path:
    """A folder in a folder of runs. Raises RunError if it is a symbolic link."""
    if (path := folder / name).is_symlink():
        raise RunError(f"{path} is a symbolic link, which is not followed: remove it, or choose "
                       "another output folder")  # fmt: skip
    return path


def identity(record: Mapping[str, Any]) -> str:
    """The checksum of a recorded config."""
    return atomic_files.digest({k: v for k, v in record.items() if k not in UNIDENTIFIED})


def check_identity(path: Path, recorded: Any, expected: str) -> None:
    """Raise DamagedError if a file belongs to a run of another config."""
    if recorded != expected:
        raise DamagedError(path, "is of another run: its config is not that of config.json")
