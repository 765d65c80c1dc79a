"""A run as its folder records it, read and verified."""

import dataclasses
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from gatecore import Gate
from gatecore.tasks.training import atomic_files, metrics_log, run_folder
from gatecore.tasks.training.atomic_files import DamagedError, RunError
from gatecore.tasks.training.config import Config, explain
from gatecore.tasks.training.folder_lock import Busy
from gatecore.tasks.training.run_folder import FILES, MARK, UNIDENTIFIED, Folder

__all__ = ["FILES", "Busy", "Folder", "Run", "RunError", "load_run", "load_same", "upgrade"]

GATES = "before", "after", "main before", "main after"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run as its folder records it.

    ``environment`` has the versions, hardware and commits under which it was started, ``metrics``
    the lines of metrics.jsonl: "step", "split" ("train" or "validation") and values by name, None
    for a value that was not finite. ``summary`` are the results: status, test scores, baselines,
    timescales in steps, training time in seconds; None until the run has ended. ``identity`` is the
    checksum of the recorded config, and ``unsigned`` whether files without checksums are read, too.

    >>> import tempfile
    >>> from gatecore.tasks import Config, train
    >>> config = Config.of("copying", length=4, hidden_size=8, steps=2, test_size=8)
    >>> run = train(config, tempfile.mkdtemp())
    >>> run.curve("validation", "loss")[0], run.gates("after").value.shape
    (array([0, 2]), (1, 8))
    """

    folder: Path
    config: Config
    environment: Mapping[str, Any]
    metrics: list[dict[str, Any]]
    summary: dict[str, Any] | None
    identity: str = ""
    unsigned: bool = False

    @property
    def status(self) -> str:
        """ "finished", "diverged", or "unfinished"."""
        return self.summary["status"] if self.summary else "unfinished"

    def curve(self, split: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """The steps at which a metric was finite, and its values there, both (points,)."""
        points = [(line["step"], line[metric]) for line in self.metrics
                  if line["split"] == split and line.get(metric) is not None]  # fmt: skip
        steps, values = zip(*points, strict=True) if points else ((), ())
        return np.array(steps), np.array(values, dtype=float)

    def gates(self, when: str) -> Gate | None:
        """The mean effective forget gate of each unit, (layers, hidden), or None without a record.

        ``when`` is "before" or "after" training; of refined gates also "main before" and "main
        after", the gates f_t that the refine gate modulates. RunError if the file is damaged, or
        belongs to another run.
        """
        path = self.folder / "gates.safetensors"
        if not os.path.lexists(path):
            return None
        limit = 16 * len(GATES) * math.prod(self.config.spec().gate_shape)  # bytes of two sides
        tensors, about = atomic_files.read_tensors(path, limit=limit, unsigned=self.unsigned)
        if about or not self.unsigned:
            run_folder.check_identity(path, about.get("config"), self.identity)
        if any(name.partition(".")[0] not in GATES for name in tensors):
            raise DamagedError(path, "should hold gates alone")  # another file of the run
        sides = [tensors.get(f"{when}.{side}") for side in Gate._fields]
        return Gate(*sides) if all(side is not None for side in sides) else None


class _Summary(BaseModel):
    """The fields of summary.json that are required; null stands for a number not finite."""

    status: Literal["finished", "diverged"]
    step: int
    parameters: int
    seconds: float
    test: dict[str, float | None] | None
    metrics: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None
    baselines: dict[str, dict[str, float]] | None = None
    timescales: dict[Literal["before", "after"],
                     dict[Literal["smallest", "median", "largest"], float | None]]  # fmt: skip


_UNKNOWN = "unknown"  # the content of data files, in a config that does not record it


def load_run(path: str | os.PathLike[str], *, unsigned: bool = False) -> Run:
    """Read the folder of a run that :func:`gatecore.tasks.train` or ``gatecore train`` wrote.

    With ``unsigned`` files without checksums are read, too, as early versions wrote them:
    ``gatecore upgrade``. RunError if the folder holds no run, or one whose files are invalid,
    damaged, or of different runs. Values that the run did not write are never returned.

    >>> import tempfile
    >>> from gatecore.tasks import Config, load_run, train
    >>> config = Config.of("copying", length=4, hidden_size=8, steps=2, test_size=8)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = train(config, folder)
    ...     run = load_run(folder)
    >>> run.status, sorted(run.summary["test"])
    ('finished', ['accuracy', 'loss'])
    """
    folder = Path(path)
    if not Folder(folder).holds_run():
        raise RunError(f"{folder} holds no run: there is no config.json; name the folder that "
                       "gatecore train wrote")  # fmt: skip
    file = folder / "config.json"
    record = atomic_files.read_json(file)
    environment = record.get("environment", {})
    if not isinstance(environment, dict):
        raise DamagedError(file, "should hold an object as environment")
    fields = {name: value for name, value in record.items() if name not in UNIDENTIFIED}
    task = fields.get("task")
    if isinstance(task, dict) and task.get("path") is not None:
        # a task without it would open the path, which a stranger may have chosen
        fields["task"] = {**task, "content": task.get("content") or _UNKNOWN}
    try:
        config = Config.model_validate(fields)
    except ValidationError as error:
        raise DamagedError(file, f"is no config: {explain(error)}") from error
    atomic_files.verify(file, record, unsigned=unsigned)
    checksum = run_folder.identity(record)
    scores = (config.task.score, config.task.shown)
    reached = _checkpoint_mark(folder)  # before the metrics: a run in progress writes it after them
    summary, end = _read_summary(folder, checksum, scores, unsigned)
    metrics, marks = metrics_log.read(folder / "metrics.jsonl", checksum, unsigned=unsigned)
    for mark in (reached, end):
        if mark is not None:
            metrics_log.check_mark(folder / "metrics.jsonl", marks, mark)
    return Run(folder, config, environment, metrics, summary, checksum, unsigned)


def upgrade(path: str | os.PathLike[str]) -> Run:
    """Add checksums to a run that an early version wrote without them; its files count as intact.

    Raises RunError if the folder holds no run, or one that is damaged, or cannot be written.
    """
    folder = Folder(path)
    run = load_run(path, unsigned=True)
    gates = {when: gate for when in GATES if (gate := run.gates(when))}
    record = atomic_files.read_json(folder.path / "config.json")
    with folder.claimed():
        folder.metrics.rewrite(run.metrics)
        folder.save_gates(**gates)
        if run.summary:
            folder.save_summary(run.summary)
        record.pop(atomic_files.CHECKSUM, None)
        atomic_files.write_json(folder.path / "config.json", record)
    return load_run(path)


def load_same(path: str | os.PathLike[str], config: Config) -> Run:
    """:func:`load_run` for a run of this config. Raises RunError if its config differs."""
    run = load_run(path)
    differences = config.differences(run.config)
    if getattr(run.config.task, "content", "") == _UNKNOWN:  # of a version that recorded none
        differences = [line for line in differences if not line.startswith("task.content ")]
    if differences:
        raise RunError(f"{path} holds a run of another config: {', '.join(differences)}; remove "
                       "that folder, or choose another output folder")  # fmt: skip
    return run


def _checkpoint_mark(folder: Path) -> metrics_log.Mark | None:
    """The length of the metrics at the last checkpoint, by state.json if that can be read."""
    try:
        state = atomic_files.read_json(folder / "state.json")
        return MARK.validate_python(atomic_files.verify(folder / "state.json", state)["metrics"])
    except (KeyError, RunError, ValidationError):
        return None  # state.json is a copy: nothing else is read from it


def _read_summary(
    folder: Path, checksum: str, scores: tuple[str, ...], unsigned: bool
) -> tuple[dict[str, Any] | None, metrics_log.Mark | None]:
    path = folder / "summary.json"
    if not os.path.lexists(path):
        return None, None
    summary = atomic_files.read_json(path)
    try:
        read = _Summary.model_validate(summary, strict=True)
    except ValidationError as error:
        raise DamagedError(path, f"is no summary: {explain(error)}") from error
    if len(read.timescales) < 2 or any(len(steps) < 3 for steps in read.timescales.values()):
        raise DamagedError(path, "lacks timescales from before or after the training")
    test = read.test or {}  # where null is a loss that is not finite; rewards always are
    lacking = [name for name in scores if name not in test]
    lacking += [name for name in ("score", "reward") if name in test and test[name] is None]
    if lacking and (test or read.status == "finished"):
        raise DamagedError(path, f"lacks the {lacking[0]} on the test set")
    summary = atomic_files.verify(path, summary, unsigned=unsigned)
    summary |= read.model_dump(exclude_unset=True)  # with floats for integers of any size
    if "config" in summary:
        run_folder.check_identity(path, summary.pop("config"), checksum)
    mark = summary.pop("metrics", None)
    return summary, None if mark is None else MARK.validate_python(mark)
