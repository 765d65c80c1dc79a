"""Trackers of experiments: what each is given, and Weights & Biases as one (extra ``wandb``)."""

import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gatecore import timescale
from gatecore.tasks import missing
from gatecore.tasks.training.atomic_files import writing
from gatecore.tasks.training.config import Config, ConfigError
from gatecore.tasks.training.run import Run

ID = "wandb-id.txt"  # in the run's folder: a continued run is the same run at Weights & Biases


class Tracker(Protocol):
    """Records a run while it trains. A context manager, which closes what it opened."""

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics: "step", "split" and values by name, None where not finite."""

    def add_gates(self, run: Run) -> None:
        """Add the gates of a run that has ended."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *_: Any) -> None: ...


def scalars(line: Mapping[str, Any]) -> dict[str, float]:
    """The values of a line of metrics by "train/loss", "validation/loss" and so on.

    >>> scalars({"step": 5, "split": "train", "loss": 2.0, "accuracy": None})
    {'train/loss': 2.0}
    """
    return {
        f"{line['split']}/{name}": value
        for name, value in line.items()
        if name not in ("step", "split") and value is not None
    }


def histograms(run: Run) -> Iterator[tuple[str, str, int, np.ndarray]]:
    """Name, "before" or "after", step, values (units,): gates, and log10 of their timescales.

    Gates that are not finite, and infinite timescales, are left out.
    """
    last = run.metrics[-1]["step"] if run.metrics else 0
    for when, step in (("before", 0), ("after", last)):
        if (gate := run.gates(when)) is None or not np.isfinite(gate.value).all():
            continue
        decades = np.log10(timescale(gate).astype(float))
        yield "gates/forget", when, step, np.ravel(gate.value)
        if (finite := decades[np.isfinite(decades)]).size:
            yield "gates/log10_timescale", when, step, finite


class WeightsAndBiases:
    """Writes a run's config, metrics and gates to Weights & Biases.

    A context manager, which finishes the run there. Scalars are named "train/loss",
    "validation/loss" and so on; histograms "gates/forget/before", "gates/log10_timescale/after".
    The variables WANDB_MODE, WANDB_ENTITY and so on hold as everywhere in wandb; with
    WANDB_MODE=offline nothing leaves the machine, and ``wandb sync`` sends it later.
    Raises ConfigError if wandb is not installed, or refuses to begin.
    """

    def __init__(self, folder: Path, config: Config, project: str) -> None:
        try:
            import wandb
        except ModuleNotFoundError as error:
            raise ConfigError(str(missing(error, "wandb"))) from error
        self._wandb, self._folder, self._config = wandb, folder, config
        self._project = project
        self._run: Any = None

    def _begin(self) -> Any:
        file = self._folder / ID
        with writing(self._folder):
            if not file.exists():
                file.write_text(secrets.token_hex(8), encoding="ascii")
        try:
            return self._wandb.init(
                project=self._project, name=self._folder.resolve().name, dir=str(self._folder),
                id=file.read_text(encoding="ascii").strip(), resume="allow",
                config=self._config.model_dump(mode="json"),
            )  # fmt: skip
        except self._wandb.Error as error:
            raise ConfigError(f"Weights & Biases did not begin a run: {error}") from error

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line of metrics. The first one begins the run, before any training step."""
        if values := scalars(line):
            self._run = self._run or self._begin()
            self._run.log(values, step=line["step"])

    def add_gates(self, run: Run) -> None:
        """Add histograms of a run's gates, unless it had ended before any line was added."""
        if self._run is None:
            return
        drawn = {f"{name}/{when}": self._wandb.Histogram(values.tolist())
                 for name, when, _, values in histograms(run)}  # fmt: skip
        self._run.log(drawn)
        self._run.summary.update({"status": run.status})

    def __enter__(self) -> "WeightsAndBiases":
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if self._run is not None:
            self._run.finish(exit_code=int(kind is not None))
