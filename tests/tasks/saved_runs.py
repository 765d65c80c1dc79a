"""The runs of tests/data/runs-before, made by the version of gatecore before the refactor.

``python tests/tasks/saved_runs.py FOLDER`` makes them with the gatecore that Python imports: each
run once to the end, and once interrupted after a checkpoint and a line of metrics beyond it.
UR then had the refine bias of Listing 2.
"""

import contextlib
import sys
from pathlib import Path

from gatecore.tasks import Config, train

CHECKPOINT, DEATH = 5, 7  # steps
_OPPOSED = {"mechanism.refine_bias": "opposed"}
SETTINGS = {
    "steps": 14, "log_every": 3, "evaluate_every": 5, "checkpoint_every": CHECKPOINT,
    "batch_size": 4, "length": 8, "validation_size": 6, "test_size": 10, "hidden_size": 10,
}  # fmt: skip
RUNS = {
    "copying-standard": ("copying", "standard", {}),
    "copying-UR": ("copying", "UR", _OPPOSED),
    "copying-OM": ("copying", "OM", {"mechanism.downsize": 5}),
    "copying-UR-float64": ("copying", "UR", {"dtype": "float64", **_OPPOSED}),
    "adding-gru-UR": (
        "adding",
        "UR",
        {"core": "gru", "layers": 2, "zoneout": [0.0, 0.1], **_OPPOSED},
    ),
}
BACKENDS = ("numpy", "torch")


class Died(BaseException):
    """A death that no code of the library expects."""


def config(name, backend):
    """The configuration of one of the runs."""
    task, mechanism, settings = RUNS[name]
    return Config.of(task, mechanism, **SETTINGS, **settings, backend=backend)


def die(step, _):
    """Stop a run after the step of its death."""
    if step == DEATH:
        raise Died


def main(folder):
    for backend in BACKENDS:
        for name in RUNS:
            run = Path(folder) / f"{name}-{backend}"
            train(config(name, backend), run / "finished")
            with contextlib.suppress(Died):
                train(config(name, backend), run / "interrupted", on_step=die)


if __name__ == "__main__":
    main(*sys.argv[1:])
