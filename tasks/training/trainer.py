"""The training loop: steps, validation, checkpoints, divergence, resumption.

Frameworks appear only as a backend's ``Learner``, tasks only as
:class:`gatecore.tasks.problems.base.Task`.
"""

import atexit
import contextlib
import dataclasses
import json
import math
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
from pydantic import ConfigDict, TypeAdapter, ValidationError

from gatecore import Batch, Gate, backends, timescale
from gatecore.tasks.problems.base import Stream
from gatecore.tasks.training import atomic_files
from gatecore.tasks.training.config import Config, explain
from gatecore.tasks.training.run_folder import Folder, Run, RunError, load_run, load_same

OnStep = Callable[[int, float], None]
OnMetrics = Callable[[dict[str, Any]], None]
EXPLOSION = 10.0  # a training loss so many times the untrained model's counts as diverged
_LACK_OF_MEMORY = ("out of memory", "allocate memory", "resource_exhausted")
SHARING = ("torch",)  # backends whose processes share each batch


class Interrupted(Exception):
    """The run was told to stop, and has: its last step is kept in a checkpoint."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.signum = signum


@dataclasses.dataclass
class State:
    """Where a run is, beyond what the learner knows; kept with every checkpoint.

    ``untrained`` is the validation loss before the first step, whatever the batches: a small one
    may happen to be easy. ``recent`` are the metrics of the steps since the last line of the log.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    step: int = 0
    untrained: float | None = None
    recent: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best: dict[str, float] | None = None
    seconds: float = 0.0


def train(
    config: Config,
    out: str | os.PathLike[str],
    *,
    resume: bool = False,
    on_step: OnStep | None = None,
    on_metrics: OnMetrics | None = None,
) -> Run:
    """Train one model and leave a run's folder.

    Parameters
    ----------
    config : Config
    out : path
        The run's folder; made if it does not exist.
    resume : bool
        Continue the run of this config in ``out`` from its last checkpoint, to the same result, or
        return it if it has ended. Without a run there, start one.
    on_step : callable, optional
        Called with the number of steps done and the metric ``task.shown`` of the last one, the
        training loss or the score of the games.
    on_metrics : callable, optional
        Called with each line of metrics.jsonl as it is written: a mapping with "step", "split" and
        values. After a resumption lines may come again.

    Returns
    -------
    Run
        Its ``status`` is "finished", or "diverged" if the loss or the gradient became infinite or
        NaN, or the training loss grew to ten times the validation loss before the first step.

    Raises
    ------
    RunError
        ``out`` holds another run, or a damaged one, or cannot be written (then its last checkpoint
        is whole), or another process trains there (``runs.Busy``); or the sizes of config ask for
        more memory than there is.
    Interrupted
        After SIGINT or SIGTERM: the step in progress was finished and a checkpoint kept.
    """
    backends.load(config.backend)  # now: the limit reaches the libraries that are there
    # on small models a second BLAS thread gains little, and loses much where a core is busy
    with threadpoolctl.threadpool_limits(config.threads):
        own = _own_folder(config, out, resume)
        heard = on_metrics if own == out else None  # of processes that share a run, by the first
        return _train(config, Folder(own), resume, on_step, heard)


def _train(
    config: Config,
    folder: Folder,
    resume: bool,
    on_step: OnStep | None,
    on_metrics: OnMetrics | None,
) -> Run:
    """Claims the folder only when all that the run needs is there."""
    if not (resume and folder.holds_run()):
        folder.check_free()
    elif (run := load_same(folder.path, config)).summary:
        return run
    try:
        trainer = _Trainer(config, folder)
        with folder.claimed():
            if not (resume and folder.holds_run()):
                folder.create(config)
            elif (run := load_same(folder.path, config)).summary:  # another process was faster
                return run
            return trainer.run(on_step, on_metrics)
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        sizes = ("hidden_size", "layers", "batch_size")
        chosen = {name: getattr(config, name) for name in sizes} | config.task.model_dump()
        told = ", ".join(f"{name}={value}" for name, value in chosen.items())
        raise RunError(f"not enough memory: choose smaller sizes than {told}") from error


def _is_lack_of_memory(error: Exception) -> bool:
    """torch and JAX report it as a RuntimeError, and differ by device in their words."""
    return isinstance(error, MemoryError) or any(
        words in str(error).lower() for words in _LACK_OF_MEMORY
    )


def _own_folder(
    config: Config, out: str | os.PathLike[str], resume: bool
) -> str | os.PathLike[str]:
    """``out``; for all but the first process of ``torchrun`` a copy of it to throw away.

    They compute what the first one does, on their share of each batch; it alone keeps the run.
    """
    rank, world = (os.environ.get(name, "") for name in ("RANK", "WORLD_SIZE"))
    follows = rank.isdecimal() and int(rank) > 0 and world.isdecimal() and int(world) > 1
    if not follows or config.backend not in SHARING:  # others may inherit these variables
        return out
    aside = tempfile.mkdtemp(prefix="gatecore-")
    atexit.register(shutil.rmtree, aside, ignore_errors=True)
    for name in ("config.json", "checkpoint.safetensors", "metrics.jsonl", "summary.json"):
        if resume and (kept := Path(out) / name).exists():
            shutil.copy(kept, aside)
    return aside


class _Trainer:
    """One run in memory: the learner, its state, and the folder that records them."""

    def __init__(self, config: Config, folder: Folder) -> None:
        self.config, self.folder, self.state = config, folder, State()
        self.learner = config.learner()
        self.validation = self._held_out(Stream.VALIDATION)
        self.before = self._gates()
        self.kept = time.monotonic()  # when the last checkpoint began

    def run(self, on_step: OnStep | None, on_metrics: OnMetrics | None = None) -> Run:
        healthy, self.on_metrics = True, on_metrics
        with self._torn(), signals() as received:
            self._restore()
            while healthy and self.state.step < self.config.steps:
                if received:
                    self._checkpoint()
                    self._interrupted(received[0])
                healthy, loss = self._step()
                if on_step:
                    on_step(self.state.step, loss)
            self.folder.save_summary(self._summary(healthy))
            if received:
                self._interrupted(received[0])
        return load_run(self.folder.path)

    def _restore(self) -> None:
        kept = self.folder.load_checkpoint()
        if kept is None:
            self.folder.metrics.rewind(None)
            self.folder.save_gates(before=self.before)
            self.state.untrained = self._validate().get("loss")
            return
        tensors, state, metrics = kept
        path = self.folder.path / "checkpoint.safetensors"
        expected = {k: np.shape(v) for k, v in self.learner.state_dict().items()}
        try:
            if {k: v.shape for k, v in tensors.items()} != expected:
                raise ValueError("its tensors do not fit this config")
            TypeAdapter(State).validate_json(json.dumps(state), strict=True)
            self.learner.load_state_dict(tensors)
        except ValidationError as error:
            raise RunError(f"{path} has a state that is no run's: {explain(error)}") from error
        except ValueError as error:
            raise RunError(f"{path} belongs to another model: {error}") from error
        self.state = State(**state)
        self.folder.metrics.rewind(metrics)

    def _step(self) -> tuple[bool, float]:
        """One training step and what is due after it: whether all is well, and what is shown."""
        config, state, start = self.config, self.state, time.perf_counter()
        batch = config.task.batch(config.seed, state.step, config.batch_size)
        metrics = self.learner.step(
            batch, learning_rate=config.rate(state.step), clip_norm=config.clip_norm
        )
        state.step += 1
        state.recent.append(metrics)
        healthy = _healthy(metrics, state.untrained)
        last = not healthy or state.step == config.steps
        if last or state.step % config.log_every == 0:
            self._log()
        if healthy and (last or state.step % config.evaluate_every == 0):
            self._validate()
        state.seconds += time.perf_counter() - start
        if last or state.step % config.checkpoint_every == 0 or self._overdue():
            self._checkpoint()
        return healthy, metrics[config.task.shown]

    def _record(self, line: dict[str, Any]) -> None:
        self.folder.append(line)
        if self.on_metrics:
            self.on_metrics(line)

    def _log(self) -> None:
        """A line of the means since the last one."""
        recent = self.state.recent
        means = {name: float(np.mean([m[name] for m in recent])) for name in recent[0]}
        self._record({"step": self.state.step, "split": "train", **means})
        self.state.recent = []

    def _validate(self) -> dict[str, float]:
        found = self.config.task.scores(self.learner.evaluate(self.validation))
        scores = {"step": self.state.step, **found}
        self._record({"split": "validation", **scores})
        if self.state.best is None or self._better(scores, self.state.best):
            self.state.best = scores
        return scores

    def _better(self, scores: dict[str, float], best: dict[str, float]) -> bool:
        metric = self.config.task.score
        if self.config.task.better_if_higher():
            return scores[metric] > best[metric]
        return scores[metric] < best[metric]

    def _overdue(self) -> bool:
        return time.monotonic() - self.kept >= self.config.checkpoint_seconds

    def _checkpoint(self) -> None:
        self.kept = time.monotonic()
        self.folder.save_checkpoint(self.learner.state_dict(), dataclasses.asdict(self.state))

    def _interrupted(self, signum: int) -> None:
        raise Interrupted(
            f"stopped at step {self.state.step} of {self.config.steps}; the checkpoint is in "
            f"{self.folder.path}",
            signum,
        )

    def _summary(self, healthy: bool) -> dict[str, Any]:
        after = self._gates()
        self.folder.save_gates(before=self.before, after=after)
        test = None
        if healthy:
            metrics = self.learner.evaluate(self._held_out(Stream.TEST))
            test = self.config.task.scores(metrics)
        return {
            "status": "finished" if healthy else "diverged",
            "step": self.state.step,
            "parameters": sum(math.prod(array.shape) for array in self.learner.parameters.values()),
            "seconds": round(self.state.seconds, 3),
            "best": self.state.best,
            "test": test,
            "baselines": self.config.task.baselines(),
            "timescales": {"before": _timescales(self.before), "after": _timescales(after)},
        }

    def _gates(self) -> Gate:
        return self.learner.gates(self.validation[0])

    def _held_out(self, stream: Stream) -> Sequence[Batch]:
        return self.config.task.held_out(stream, self.config.seed, self.config.batch_size)

    @contextlib.contextmanager
    def _torn(self) -> Iterator[None]:
        """Whoever stops the run at once, by a second Ctrl-C or a full disk, learns what is kept."""
        kept = f"{self.folder.path} keeps the run as of its last checkpoint, if it had one"
        try:
            yield
        except KeyboardInterrupt as stopped:
            raise KeyboardInterrupt(kept) from stopped
        except atomic_files.WriteError as error:
            raise RunError(f"{error}; {kept}. With room there, --resume continues it") from error


def _healthy(metrics: dict[str, float], untrained: float | None) -> bool:
    finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics["gradient_norm"])
    return finite and (untrained is None or metrics["loss"] <= EXPLOSION * untrained)


def _timescales(gate: Gate) -> dict[str, float]:
    """Smallest, median and largest characteristic timescale of the units, in steps."""
    steps = timescale(gate)
    return {"smallest": float(steps.min()), "median": float(np.median(steps)),
            "largest": float(steps.max())}  # fmt: skip


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that a step in progress is not torn; a second one tears."""
    received: list[int] = []

    def remember(signum: int, frame: Any) -> None:
        if received:
            raise KeyboardInterrupt
        received.append(signum)

    if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
        yield received
        return
    old = {signum: signal.signal(signum, remember) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for signum, handler in old.items():
            signal.signal(signum, handler)
