"""Runs as results: checked, grouped by what was trained, and set side by side."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gatecore import Gate
from gatecore.tasks.reports import paired_statistics, published_results
from gatecore.tasks.training.config import Config
from gatecore.tasks.training.run_folder import Run, RunError

POINTS = 100  # of a curve in results.json
NO_RESULT = (
    "preset",
    "threads",
    "log_every",
    "checkpoint_every",
    "checkpoint_seconds",
)  # settings that change none
VARIED = ("seed", "learning_rate")  # within a group, with all of the mechanism's fields
MIDDLES = {"pixels": (25, 75), "language": None}  # the paper's bands (Appendix D); else:
SYNTHETIC = (20, 80)

_FORMS = {"loss": "#.4g", "perplexity": ".1f", "score": ".2f"}

Settings = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Score:
    """What a task is judged by: the metric's name in the files, and whether ``higher`` is better.

    ``band`` are percentiles over seeds, None for the paper's band over the last 1 % of the data.
    """

    name: str
    higher: bool
    band: tuple[int, int] | None

    @classmethod
    def of(cls, config: Config) -> "Score":
        task = config.task
        return cls(task.score, task.better_if_higher(), MIDDLES.get(task.name, SYNTHETIC))

    def show(self, value: float | None) -> str:
        """For people; accuracies in %."""
        if value is None:
            return "–"
        if self.name == "accuracy":
            return f"{100 * value:.2f}\N{NO-BREAK SPACE}%"
        return f"{value:{_FORMS[self.name]}}"

    def best(self, values: Iterable[float]) -> float:
        return (max if self.higher else min)(values)


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run, with the name of its folder below the report's."""

    run: Run
    folder: str
    score: Score

    @classmethod
    def of(cls, run: Run, folder: str) -> "Trial":
        """Raises RunError where the files of the run contradict each other."""
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
    def step(self) -> int:
        """Training steps done, as far as the files tell."""
        logged = max((line["step"] for line in self.run.metrics), default=0)
        return self.run.summary["step"] if self.run.summary else logged

    @property
    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps and scores of the validations."""
        return self.run.curve("validation", self.score.name)

    @property
    def best(self) -> float | None:
        """The best validation score of the run."""
        values = self.curve[1]
        return float(self.score.best(values)) if len(values) else None

    @property
    def final(self) -> float | None:
        """The last validation score."""
        values = self.curve[1]
        return float(values[-1]) if len(values) else None

    @property
    def test(self) -> float | None:
        """The score on the test set of a run that finished, if it is finite."""
        scores = (self.run.summary or {}).get("test") or {}
        return scores.get(self.score.name) if self.status == "finished" else None

    @property
    def parameters(self) -> int | None:
        return (self.run.summary or {}).get("parameters")

    @property
    def seconds(self) -> float | None:
        return (self.run.summary or {}).get("seconds")

    def gates(self, when: str) -> Gate | None:
        """Of each unit, "before" or "after"."""
        return self.run.gates(when)

    def timescales(self, when: str) -> Mapping[str, float | None]:
        """Smallest, median and largest of the units, in steps; None: infinite or not known."""
        return (self.run.summary or {}).get("timescales", {}).get(when, {})

    def settings(self) -> Settings:
        """All of the config as a flat mapping."""
        return flat(self.config.model_dump(mode="json"))

    def record(self) -> dict[str, Any]:
        """For JSON; what all of a group share is told there."""
        summary = self.run.summary or {}
        own = {k: v for k, v in self.settings().items() if not shared(k)}
        steps, values = self.curve
        kept = thinned(len(steps))
        return {
            "folder": self.folder, "mechanism": self.config.mechanism.name, "settings": own,
            "status": self.status, "step": self.step, "best_validation": self.best,
            "test": summary.get("test"), "parameters": self.parameters, "seconds": self.seconds,
            "timescales": summary.get("timescales"),
            "validation": {"step": steps[kept].tolist(), self.score.name: values[kept].tolist()},
        }  # fmt: skip

    def _check(self) -> None:
        """What a config, its metrics, its summary and its gates must agree in."""
        config, folder, summary = self.config, self.run.folder, self.run.summary
        for split in ("train", "validation"):
            steps = [line["step"] for line in self.run.metrics if line["split"] == split]
            if any(b <= a for a, b in itertools.pairwise(steps)):
                raise RunError(f"{folder / 'metrics.jsonl'} has {split} steps out of order")
        if any(not 0 <= line["step"] <= config.steps for line in self.run.metrics):
            raise RunError(f"{folder / 'metrics.jsonl'} has steps outside 0..{config.steps}")
        _check_scores(self.run.metrics, folder / "metrics.jsonl")
        if summary:
            self._check_summary(summary, folder / "summary.json")
        for when in ("before", "after"):
            _check_gates(self.gates(when), config, folder / "gates.safetensors")

    def _check_summary(self, summary: Mapping[str, Any], path: Path) -> None:
        _check_scores([summary["test"] or {}], path)
        if self.status == "finished" and summary["step"] != self.config.steps:
            raise RunError(
                f"{path} calls the run finished after step {summary['step']} of {self.config.steps}"
            )
        best, metric = summary.get("best"), self.score.name
        told = best.get(metric) if isinstance(best, Mapping) else None
        found = self.run.curve("validation", metric)[1]
        if told is None or not len(found):
            if self.status == "finished" or (told is None) != (not len(found)):
                raise RunError(f"{path} and metrics.jsonl do not both have validation scores")
        elif told != self.score.best(found):
            raise RunError(
                f"{path} has {metric}={told} as the best validation, metrics.jsonl "
                f"{self.score.best(found)}"
            )


@dataclasses.dataclass(frozen=True)
class Variant:
    """The runs of one kind of gates within a group, of all learning rates and seeds."""

    label: str
    trials: tuple[Trial, ...]

    @property
    def score(self) -> Score:
        return self.trials[0].score

    @property
    def rates(self) -> list[float]:
        return sorted({trial.config.learning_rate for trial in self.trials})

    @property
    def rate(self) -> float:
        """The learning rate of the best validation score of any run that ended (Table 2)."""
        ended = [t for t in self.trials if t.status != "unfinished" and t.best is not None]
        pool = ended or [t for t in self.trials if t.best is not None]
        if not pool:
            return self.rates[0]
        best = self.score.best(t.best for t in pool if t.best is not None)
        return next(t.config.learning_rate for t in pool if t.best == best)

    @property
    def chosen(self) -> list[Trial]:
        """The runs at that learning rate, by seed."""
        return self.at(self.rate)

    def at(self, rate: float) -> list[Trial]:
        """The runs at a learning rate, by seed."""
        kept = (trial for trial in self.trials if trial.config.learning_rate == rate)
        return sorted(kept, key=lambda trial: trial.seed)

    @property
    def diverged(self) -> list[Trial]:
        return [trial for trial in self.chosen if trial.status == "diverged"]

    @property
    def unfinished(self) -> list[Trial]:
        return [trial for trial in self.chosen if trial.status == "unfinished"]

    @property
    def best(self) -> float | None:
        """The best validation score of any of the chosen runs that ended, as in Table 2."""
        values = self._validations()
        return self.score.best(values) if values else None

    @property
    def median_best(self) -> float | None:
        """The median over those runs of each one's best validation score."""
        return median(self._validations())

    @property
    def tests(self) -> dict[int, float]:
        """Test scores of the chosen runs by seed."""
        return {trial.seed: trial.test for trial in self.chosen if trial.test is not None}

    @property
    def stars(self) -> str:
        """An asterisk for each seed that diverged."""
        return "*" * len(self.diverged)

    def _validations(self) -> list[float]:
        ended = [trial for trial in self.chosen if trial.status != "unfinished"]
        return [trial.best for trial in ended if trial.best is not None]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in gates, learning rate and seed alone.

    ``settings`` are shared by all, ``differing`` those of them by which groups of one title differ.
    """

    title: str
    settings: Settings
    differing: Settings
    variants: tuple[Variant, ...]
    baselines: Mapping[str, Mapping[str, float]]

    @property
    def score(self) -> Score:
        return self.trials[0].score

    @property
    def trials(self) -> list[Trial]:
        return [trial for variant in self.variants for trial in variant.trials]

    @property
    def reference(self) -> published_results.Reference | None:
        return published_results.reference(self.trials[0].config)

    @property
    def standard(self) -> Variant:
        """What the others are compared with: the standard gates, or else the first."""
        return next((v for v in self.variants if v.label == "standard"), self.variants[0])

    @property
    def differences(self) -> dict[str, paired_statistics.Difference]:
        """Of each other kind of gates to the standard ones, in the test score."""
        own = self.standard
        found = {
            v.label: paired_statistics.compare(v.tests, own.tests)
            for v in self.variants
            if v is not own
        }
        return {label: difference for label, difference in found.items() if difference}

    def baseline_scores(self) -> dict[str, float]:
        """The trivial baselines in this group's score."""
        score = self.score.name
        return {name: its[score] for name, its in self.baselines.items() if score in its}

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title, "differing": self.differing, "settings": self.settings,
            "score": {"name": self.score.name, "higher_is_better": self.score.higher},
            "baselines": self.baseline_scores(),
            "paper": dataclasses.asdict(self.reference) if self.reference else None,
            "mechanisms": {v.label: self._variant(v) for v in self.variants},
            "compared_with": self.standard.label,
            "differences": {k: dataclasses.asdict(v) for k, v in self.differences.items()},
            "runs": [trial.record() for trial in self.trials],
        }  # fmt: skip

    def _variant(self, variant: Variant) -> dict[str, Any]:
        mechanism = variant.trials[0].config.mechanism
        return {
            "learning_rate": variant.rate, "learning_rates": variant.rates,
            "best_validation": variant.best, "median_best_validation": variant.median_best,
            "median_test": median(variant.tests.values()),
            "test_by_seed": {str(seed): value for seed, value in variant.tests.items()},
            "diverged": [t.seed for t in variant.diverged],
            "unfinished": [t.seed for t in variant.unfinished],
            "paper": self.reference.value(mechanism) if self.reference else None,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Note:
    """A folder that was left out, wholly or in part, and why."""

    folder: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All results of a folder."""

    name: str
    groups: tuple[Group, ...]
    notes: tuple[Note, ...]

    @property
    def trials(self) -> list[Trial]:
        return [trial for group in self.groups for trial in group.trials]

    def environments(self) -> dict[str, list[str]]:
        """Each fact about software and hardware, with its values over all runs."""
        found: dict[str, list[str]] = {}
        for trial in self.trials:
            for key, value in trial.run.environment.items():
                if (text := _in_words(value)) not in found.setdefault(str(key), []):
                    found[str(key)].append(text)
        return found


def flat(tree: Mapping[str, Any], prefix: str = "") -> Settings:
    """Nested mappings as one, with dotted names."""
    found: Settings = {}
    for name, value in tree.items():
        nested = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


def thinned(count: int) -> np.ndarray:
    """Indices of at most 100 of ``count`` points, evenly, the first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).astype(int))


def median(values: Iterable[float]) -> float | None:
    """The median, or None of nothing."""
    listed = list(values)
    return float(np.median(listed)) if listed else None


def shared(key: str) -> bool:
    """Whether runs of one group agree in this setting."""
    return key not in VARIED and key not in NO_RESULT and not key.startswith("mechanism.")


def _check_scores(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    for line in lines:
        accuracy = line.get("accuracy")
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise RunError(f"{path} has accuracy={accuracy}, which should be in [0, 1]")


def _check_gates(gate: Gate | None, config: Config, path: Path) -> None:
    if gate is None:
        return
    wanted = config.spec().gate_shape
    for side in gate:
        if side.shape != wanted or side.dtype.kind != "f":
            raise RunError(f"{path} has gates of shape {side.shape} and type {side.dtype}, which "
                           f"should be floats {wanted}")  # fmt: skip
        if np.any((side < 0) | (side > 1 + 1e-6)):
            raise RunError(f"{path} has gates outside [0, 1]")


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
