"""One run of a report, checked for contradictions, and the score of its task."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gatecore.tasks.problems.base import PERFECT
from gatecore.tasks.training.atomic_files import DamagedError
from gatecore.tasks.training.config import Config, flat
from gatecore.tasks.training.run import GATES, Run

BANDS = {"pixels": (25, 75), "language": None}  # percentiles of the paper's bands (Appendix D)
SYNTHETIC = (20, 80)  # of all other tasks
MARGIN = 0.01  # by which a score must exceed a memoryless baseline to be called better
_FORMS = {"loss": "#.4g", "perplexity": ".1f", "score": ".2f"}


@dataclasses.dataclass(frozen=True)
class Score:
    """The metric by which a task is judged."""

    name: str  # loss, accuracy, perplexity or score
    higher: bool  # whether higher values are better
    band: tuple[int, int] | None  # percentiles over seeds; None: over the last 1 % of the data

    @classmethod
    def of(cls, config: Config) -> "Score":
        task = config.task
        return cls(task.score, task.better_if_higher(), BANDS.get(task.name, SYNTHETIC))

    def show(self, value: float | None) -> str:
        """The value as text; accuracies in %."""
        if value is None:
            return "–"
        return percent(value) if self.name == "accuracy" else f"{value:{_FORMS[self.name]}}"

    def best(self, values: Iterable[float]) -> float:
        """The best of several values."""
        return (max if self.higher else min)(values)


def percent(value: float | None) -> str:
    """A fraction of 1 as text."""
    return "–" if value is None else f"{100 * value:.2f}\N{NO-BREAK SPACE}%"


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run, with the name of its folder below the report's."""

    run: Run
    folder: str
    score: Score

    @classmethod
    def of(cls, run: Run, folder: str) -> "Trial":
        """Raises DamagedError if the files of the run contradict each other."""
        trial = cls(run, folder, Score.of(run.config))
        trial._check()
        return trial

    @property
    def config(self) -> Config:
        return self.run.config

    @property
    def seed(self) -> int:
        return self.config.seed

    @property
    def status(self) -> str:
        return self.run.status

    @property
    def summary(self) -> Mapping[str, Any]:
        """The run's summary; empty until the run has ended."""
        return self.run.summary or {}

    @property
    def step(self) -> int:
        """Training steps done, by the summary or else by the log."""
        logged = max((line["step"] for line in self.run.metrics), default=0)
        return self.summary.get("step", logged)

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and scores of the validations, both (validations,)."""
        return self.run.curve("validation", self.score.name)

    @property
    def best(self) -> float | None:
        """The best validation score of the run."""
        values = self.curve[1]
        return float(self.score.best(values)) if len(values) else None

    @property
    def collapsed(self) -> bool:
        """Whether a finished run ended no better than without memory, after it had been better.

        Better: by a tenth of the best memoryless baseline, or of its distance to a perfect score.
        """
        known = {k: v[self.score.name] for k, v in (self.summary.get("baselines") or {}).items()
                 if self.score.name in v}  # fmt: skip
        perfect, values = known.pop(PERFECT, None), self.curve[1]
        if self.status != "finished" or not known or not len(values):
            return False
        chance = self.score.best(known.values())
        scale = abs(chance) if perfect is None else abs(perfect - chance)
        gains = (values - chance) * (1 if self.score.higher else -1)
        return bool(gains.max() > 0.1 * scale and gains[-1] <= MARGIN * scale)

    @property
    def tested(self) -> Mapping[str, float | None]:
        """All metrics on the test set."""
        return self.summary.get("test") or {}

    @property
    def test(self) -> float | None:
        """The score on the test set of a finished run, if it is finite."""
        return self.tested.get(self.score.name) if self.status == "finished" else None

    def timescales(self, when: str) -> Mapping[str, float | None]:
        """Smallest, median and largest of the units, in steps; None: infinite or unknown."""
        return self.summary.get("timescales", {}).get(when, {})

    def settings(self) -> dict[str, Any]:
        """The config as a flat mapping."""
        return flat(self.config.model_dump(mode="json"))

    def _check(self) -> None:
        """Raise DamagedError if config, metrics, summary and gates contradict each other."""
        path, last = self.run.folder / "metrics.jsonl", self.config.steps
        for split in ("train", "validation"):
            steps = [line["step"] for line in self.run.metrics if line["split"] == split]
            if any(b <= a for a, b in itertools.pairwise(steps)):
                raise DamagedError(path, f"has {split} steps out of order")
        if any(not 0 <= line["step"] <= last for line in self.run.metrics):
            raise DamagedError(path, f"has steps outside 0..{last}")
        _check_accuracies(self.run.metrics, path)
        if self.summary:
            self._check_summary(self.run.folder / "summary.json")
        path, shape = self.run.folder / "gates.safetensors", self.config.spec().gate_shape
        for side in (side for when in GATES for side in self.run.gates(when) or ()):
            if side.shape != shape or side.dtype.kind != "f":
                raise DamagedError(path, f"has gates of shape {side.shape} and type {side.dtype}, "
                                   f"which should be floats {shape}")  # fmt: skip
            if np.any((side < 0) | (side > 1 + 1e-6)):
                raise DamagedError(path, "has gates outside [0, 1]")

    def _check_summary(self, path: Path) -> None:
        _check_accuracies([self.tested], path)
        if self.status == "finished" and self.step != self.config.steps:
            raise DamagedError(path, f"calls the run finished after step {self.step} of "
                               f"{self.config.steps}")  # fmt: skip
        best, metric = self.summary.get("best"), self.score.name
        recorded = best.get(metric) if isinstance(best, Mapping) else None
        if recorded is None or self.best is None:
            if self.status == "finished" or (recorded is None) != (self.best is None):
                raise DamagedError(path, "and metrics.jsonl do not both have validation scores")
        elif recorded != self.best:
            raise DamagedError(path, f"has {metric}={recorded} as the best validation, "
                               f"metrics.jsonl {self.best}")  # fmt: skip


def _check_accuracies(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    for line in lines:
        accuracy = line.get("accuracy")
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise DamagedError(path, f"has accuracy={accuracy}, which should be in [0, 1]")
