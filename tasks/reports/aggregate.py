"""Results of several runs: kinds of gates side by side, in groups of comparable runs."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from gatecore.tasks.reports.paired_statistics import Difference, compare
from gatecore.tasks.reports.published_results import Reference, reference
from gatecore.tasks.reports.trial import Score, Trial


@dataclasses.dataclass(frozen=True)
class Variant:
    """The runs of one kind of gates within a group, of all learning rates and seeds.

    Its ``label`` is the mechanism's name, with the fields that tell it from others of that name.
    """

    label: str
    trials: tuple[Trial, ...]

    @property
    def score(self) -> Score:
        """The metric by which the runs are judged."""
        return self.trials[0].score

    @property
    def rates(self) -> list[float]:
        """All learning rates, sorted."""
        return sorted({trial.config.learning_rate for trial in self.trials})

    @property
    def rate(self) -> float:
        """The learning rate of the best validation score of any run that ended (Table 2)."""
        scored = [trial for trial in self.trials if trial.best is not None]
        pool = [trial for trial in scored if trial.status != "unfinished"] or scored
        best = self.score.best(t.best for t in pool if t.best is not None) if pool else None
        return next((t.config.learning_rate for t in pool if t.best == best), self.rates[0])

    @property
    def stable(self) -> float:
        """The learning rate of the best mean final validation score (Figure 5).

        Of the rates at which all runs finished, and none collapsed; without one :attr:`rate`.
        """
        finals = {}
        for rate in self.rates:
            trials = self.at(rate)
            if all(t.status == "finished" and not t.collapsed for t in trials):
                finals[rate] = float(np.mean([t.curve[1][-1] for t in trials]))
        best = self.score.best(finals.values()) if finals else None
        return next((rate for rate, final in finals.items() if final == best), self.rate)

    @property
    def chosen(self) -> list[Trial]:
        """The runs at that learning rate, by seed."""
        return self.at(self.rate)

    def at(self, rate: float) -> list[Trial]:
        """The runs at a learning rate, by seed."""
        trials = (trial for trial in self.trials if trial.config.learning_rate == rate)
        return sorted(trials, key=lambda trial: trial.seed)

    @property
    def diverged(self) -> list[Trial]:
        """The chosen runs that diverged."""
        return [trial for trial in self.chosen if trial.status == "diverged"]

    @property
    def collapsed(self) -> list[Trial]:
        """The chosen runs that ended at chance after they had been better."""
        return [trial for trial in self.chosen if trial.collapsed]

    @property
    def smallest_timescale(self) -> float | None:
        """The median of the chosen runs' smallest timescales after training, in steps."""
        finished = (t for t in self.chosen if t.status == "finished")
        return median(trial.timescales("after").get("smallest") for trial in finished)

    @property
    def unfinished(self) -> list[Trial]:
        """The chosen runs that have not ended."""
        return [trial for trial in self.chosen if trial.status == "unfinished"]

    @property
    def best(self) -> float | None:
        """The best validation score of the chosen runs that ended, as in Table 2."""
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
    def median_test(self) -> float | None:
        """The median of the test scores."""
        return median(self.tests.values())

    def _validations(self) -> list[float]:
        ended = (trial.best for trial in self.chosen if trial.status != "unfinished")
        return [best for best in ended if best is not None]


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs that differ in gates, learning rate and seed alone.

    ``title`` is the task's, with its most important settings; ``settings`` maps the dotted names of
    all settings that the runs share to their values, and ``differing`` has those by which groups of
    one title differ; ``variants`` has a :class:`.Variant` for each kind of gates, and ``baselines``
    the scores of each memoryless baseline by its name.
    """

    title: str
    settings: dict[str, Any]
    differing: dict[str, Any]
    variants: tuple[Variant, ...]
    baselines: Mapping[str, Mapping[str, float]]

    @property
    def score(self) -> Score:
        """The metric by which the runs are judged."""
        return self.trials[0].score

    @property
    def trials(self) -> list[Trial]:
        """All runs."""
        return [trial for variant in self.variants for trial in variant.trials]

    @property
    def reference(self) -> Reference | None:
        """The paper's values for such runs."""
        return reference(self.trials[0].config)

    @property
    def standard(self) -> Variant:
        """The kind of gates that others are compared with: the standard ones, or else the first."""
        return next((v for v in self.variants if v.label == "standard"), self.variants[0])

    @property
    def differences(self) -> dict[str, Difference]:
        """The difference of each other kind of gates to the standard ones, in the test score."""
        first = self.standard
        compared = {v.label: compare(v.tests, first.tests) for v in self.variants if v is not first}
        return {label: difference for label, difference in compared.items() if difference}

    def baseline_scores(self) -> dict[str, float]:
        """The baselines in this group's score."""
        score = self.score.name
        return {k: scores[score] for k, scores in self.baselines.items() if score in scores}


@dataclasses.dataclass(frozen=True)
class Note:
    """A folder that was left out, and the reason."""

    folder: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Report:
    """All results of a folder of this ``name``; ``notes`` are about folders that were left out."""

    name: str
    groups: tuple[Group, ...]
    notes: tuple[Note, ...]

    @property
    def trials(self) -> list[Trial]:
        """All runs."""
        return [trial for group in self.groups for trial in group.trials]

    def environments(self) -> dict[str, list[str]]:
        """The software and hardware, each with its values over all runs."""
        values: dict[str, dict[str, None]] = {}  # of each key, its distinct values in order
        for key, value in (item for trial in self.trials for item in trial.run.environment.items()):
            values.setdefault(str(key), {})[_text(value)] = None
        return {key: list(texts) for key, texts in values.items()}


def median(values: Iterable[float | None]) -> float | None:
    """The median of the values that are known, if any is."""
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
