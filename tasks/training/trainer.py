"""The training loop: steps, validation, checkpoints, divergence, resumption."""

import atexit
import contextlib
import dataclasses
import json
import math
import operator
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gatecore import Batch, Gate, backends, timescale
from gatecore.tasks.problems.base import Stream
from gatecore.tasks.safe_files import descriptor
from gatecore.tasks.training.atomic_files import DamagedError, RunError, WriteError, output_folder
from gatecore.tasks.training.capacity import memory_errors
from gatecore.tasks.training.config import Config, explain
from gatecore.tasks.training.folder_lock import is_locked
from gatecore.tasks.training.run import Run, load_run, load_same
from gatecore.tasks.training.run_folder import Folder
from gatecore.tasks.training.signals import Interrupted, signals

OnStep = Callable[[int, float], None]
OnMetrics = Callable[[dict[str, Any]], None]
EXPLOSION = 10.0  # a training loss so many times the untrained model's counts as diverged
SHARING = ("torch",)  # backends whose processes share each batch


@dataclasses.dataclass
class State:
    """The trainer's part of a checkpoint."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: int = 0
    untrained: float | None = None  # the validation loss before the first step
    recent: list[dict[str, float]] = dataclasses.field(default_factory=list)  # not yet in the log
    best: dict[str, float] | None = None  # metrics of the best validation
    seconds: float = 0.0


def train(config: Config, out: str | os.PathLike[str], *, resume: bool = False,
          on_step: OnStep | None = None, on_metrics: OnMetrics | None = None) -> Run:  # fmt: skip
    """Train one model, and write the folder ``out``, which is made if it does not exist.

    With ``resume`` continue the run of this config there from its last checkpoint, to the same
    result, or return it if it has ended; without a run there, start one. The :class:`Run`'s status
    is "finished", or "diverged" if the loss or the gradient became infinite or NaN, or the training
    loss exceeded ten times the validation loss before the first step.

    ``on_step`` is called after each training step with the number of steps done and the metric of
    the last one that its task names: the training loss, or the score of the episodes.
    ``on_metrics`` is called with each line of metrics.jsonl as it is written: a mapping with
    "step", "split" and values. After a resumption lines may be repeated.

    RunError if ``out`` holds another run or a damaged one, cannot be written (its last checkpoint
    is complete then), or another process trains there (``folder_lock.Busy``); or if the model needs
    more memory than there is. ConfigError if a setting of a new run has no effect on its model.
    Interrupted after SIGINT or SIGTERM: a checkpoint holds the step in progress, which is finished.

    >>> import tempfile
    >>> from gatecore.tasks import Config, train
    >>> config = Config.of("copying", "UR", length=4, hidden_size=8, steps=2, test_size=8)
    >>> out, steps = tempfile.mkdtemp(), []
    >>> run = train(config, out, on_step=lambda step, loss: steps.append(step))
    >>> run.status, steps
    ('finished', [1, 2])
    """
    backends.load(config.backend)  # before the limit, which reaches loaded libraries alone
    # on small models a second BLAS thread gains little, and loses much where a core is busy
    with threadpoolctl.threadpool_limits(config.threads):
        path = _folder_of_process(config, out, resume)
        on_metrics = on_metrics if path == out else None  # of the process that keeps the run
        folder = Folder(path)
        former = _former_run(config, folder, resume)
        if former and former.summary:
            with contextlib.suppress(OSError):
                is_locked(folder.path)  # it removes the lock of one that was killed at its end
            return former
        with memory_errors(config):
            trainer = _Trainer(config, folder)
            with folder.claimed():  # when everything that the run needs exists
                former = _former_run(config, folder, resume)  # another process may have trained it
                if former is None:
                    folder.create(config)
                elif former.summary:
                    return former
                return trainer.run(on_step, on_metrics)


def _former_run(config: Config, folder: Folder, resume: bool) -> Run | None:
    """The run to resume; None if the folder is free for a new one."""
    if resume and folder.holds_run():
        return load_same(folder.path, config)
    folder.check_free()
    config.check_effects()
    return None


def _folder_of_process(config: Config, out: str | os.PathLike[str],
                       resume: bool) -> str | os.PathLike[str]:  # fmt: skip
    """``out``; for all but the first process of ``torchrun``, which keeps the run, a copy of it."""
    rank, processes = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    follows = rank.isdecimal() and int(rank) > 0 and processes.isdecimal() and int(processes) > 1
    if not follows or config.backend not in SHARING:  # others may inherit these variables
        return out
    copy = tempfile.mkdtemp(prefix="gatecore-")
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    with output_folder(Path(out)):
        for name in ("config.json", "checkpoint.safetensors", "metrics.jsonl", "summary.json"):
            if resume and os.path.lexists(file := Path(out) / name):
                with open(descriptor(file), "rb") as source, open(Path(copy, name), "xb") as target:
                    shutil.copyfileobj(source, target)
    return copy


class _Trainer:
    """One run in memory: the learner, its state, and the folder that records them."""

    def __init__(self, config: Config, folder: Folder) -> None:
        self.config, self.folder, self.state = config, folder, State()
        self.learner = config.learner()
        self.validation = self._held_out(Stream.VALIDATION)
        self.before = self._gates("before")
        self.last_checkpoint = time.monotonic()

    def run(self, on_step: OnStep | None, on_metrics: OnMetrics | None) -> Run:
        healthy, self.on_metrics = True, on_metrics
        with self._stops_explained(), signals() as received:
            self._restore()
            while (unfinished := healthy and self.state.step < self.config.steps) and not received:
                healthy, metric = self._step()
                if on_step:
                    on_step(self.state.step, metric)
            if unfinished:
                self._checkpoint()
            else:
                self.folder.save_summary(self._summary(healthy))
            if received:
                raise Interrupted(f"stopped at step {self.state.step} of {self.config.steps}; the "
                                  f"checkpoint is in {self.folder.path}", received[0])  # fmt: skip
        return load_run(self.folder.path)

    def _restore(self) -> None:
        """Continue from the last checkpoint, or validate the untrained model."""
        arrays = {k: np.asarray(v) for k, v in self.learner.state_dict().items()}
        expected = {k: (v.shape, v.dtype.kind) for k, v in arrays.items()}
        checkpoint = self.folder.load_checkpoint(8 * sum(v.size for v in arrays.values()))
        del arrays
        if checkpoint is None:
            self.folder.metrics.rewind(None)
            self.folder.save_gates(**self.before)
            self.state.untrained = self._validate().get("loss")
            return
        tensors, state, metrics = checkpoint
        path = self.folder.path / "checkpoint.safetensors"
        try:
            if {k: (v.shape, v.dtype.kind) for k, v in tensors.items()} != expected:
                raise ValueError("its tensors do not fit this config")
            if any(np.any(v < 0) for v in tensors.values() if v.dtype.kind == "i"):
                raise ValueError("it counts fewer than 0 updates")
            read = TypeAdapter(State).validate_json(json.dumps(state), strict=True)
            if not 0 <= read.step <= self.config.steps:
                raise ValueError(f"its step is {read.step}")
            if read.best is not None and self.config.task.score not in read.best:
                raise ValueError("its best validation has no score")
            self.learner.load_state_dict(tensors)
        except ValidationError as error:
            raise DamagedError(path, f"has an invalid state: {explain(error)}") from error
        except ValueError as error:
            raise DamagedError(path, f"belongs to another model: {error}") from error
        self.state = read
        self.folder.metrics.rewind(metrics)
        self.folder.save_state(state, metrics)  # a kill may have come between the two files

    def _step(self) -> tuple[bool, float]:
        """One training step, and what is due after it: whether the run is healthy, its metric."""
        config, state, start = self.config, self.state, time.perf_counter()
        batch = config.task.batch(config.seed, state.step, config.batch_size)
        metrics = self.learner.step(batch, learning_rate=config.rate(state.step),
                                    clip_norm=config.clip_norm)  # fmt: skip
        state.step += 1
        state.recent.append(metrics)
        healthy = math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])
        healthy &= state.untrained is None or metrics["loss"] <= EXPLOSION * state.untrained
        last = not healthy or state.step == config.steps
        if last or state.step % config.log_every == 0:
            self._log()
        if healthy and (last or state.step % config.evaluate_every == 0):
            self._validate()
        state.seconds += time.perf_counter() - start
        overdue = time.monotonic() - self.last_checkpoint >= config.checkpoint_seconds
        if last or state.step % config.checkpoint_every == 0 or overdue:
            self._checkpoint()
        return healthy, metrics[config.task.shown]

    def _record(self, line: dict[str, Any]) -> None:
        self.folder.metrics.append(line)
        if self.on_metrics:
            self.on_metrics(line)

    def _log(self) -> None:
        """Record the means over the steps since the last line."""
        recent = self.state.recent
        means = {k: float(np.mean([m.get(k, math.nan) for m in recent])) for k in recent[0]}
        self._record({"step": self.state.step, "split": "train", **means})
        self.state.recent = []

    def _validate(self) -> dict[str, float]:
        metrics = self.config.task.scores(self.learner.evaluate(self.validation))
        scores = {"step": self.state.step, **metrics}
        self._record({"split": "validation", **scores})
        task, best = self.config.task, self.state.best
        better = operator.gt if task.better_if_higher() else operator.lt
        if best is None or better(scores[task.score], best[task.score]):
            self.state.best = scores
        return scores

    def _checkpoint(self) -> None:
        self.last_checkpoint = time.monotonic()
        self.folder.save_checkpoint(self.learner.state_dict(), dataclasses.asdict(self.state))

    def _summary(self, healthy: bool) -> dict[str, Any]:
        finite = healthy or all(np.isfinite(v).all() for v in self.learner.state_dict().values())
        before = self.before["before"]
        undefined = {"after": Gate(*np.full_like(before, np.nan))}
        after = self._gates("after") if finite else undefined
        self.folder.save_gates(**self.before, **after)
        evaluate, scores = self.learner.evaluate, self.config.task.scores
        test = scores(evaluate(self._held_out(Stream.TEST))) if healthy else None
        return {
            "status": "finished" if healthy else "diverged", "step": self.state.step,
            "parameters": sum(math.prod(array.shape) for array in self.learner.parameters.values()),
            "seconds": round(self.state.seconds, 3), "best": self.state.best, "test": test,
            "baselines": self.config.task.baselines(),
            "timescales": {"before": _timescales(before), "after": _timescales(after["after"])},
        }  # fmt: skip

    def _gates(self, when: str) -> dict[str, Gate]:
        """The effective forget gates, and of refined gates of layers the main gates, too."""
        batch, gates = self.validation[0], {}
        refined = self.config.mechanism.auxiliary == "refine" and self.config.spec().memory is None
        if refined and hasattr(self.learner, "main_gates"):  # an agent has no record of them
            gates = {f"main {when}": self.learner.main_gates(batch)}
        return {when: self.learner.gates(batch), **gates}

    def _held_out(self, stream: Stream) -> Sequence[Batch]:
        return self.config.task.held_out(stream, self.config.seed, self.config.batch_size)

    @contextlib.contextmanager
    def _stops_explained(self) -> Iterator[None]:
        """Add to a second Ctrl-C and to a full disk that the last checkpoint is complete."""
        remains = f"{self.folder.path} keeps the run as of its last checkpoint, if it had one"
        try:
            yield
        except KeyboardInterrupt as stopped:
            raise KeyboardInterrupt(remains) from stopped
        except WriteError as error:
            raise RunError(f"{error}; {remains}. With room there, --resume continues it") from error


def _timescales(gate: Gate) -> dict[str, float]:
    """Smallest, median and largest characteristic timescale of the units, in steps."""
    statistics: dict[str, Any] = {"smallest": np.min, "median": np.median, "largest": np.max}
    return {name: float(statistic(timescale(gate))) for name, statistic in statistics.items()}
