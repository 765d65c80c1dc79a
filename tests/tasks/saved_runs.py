"""The runs of tests/data/runs-before, made by the version of gatecore before the refactor.

``python tests/tasks/saved_runs.py FOLDER`` makes them with the gatecore that Python imports: each
run once to the end, and once interrupted after a checkpoint and a line of metrics beyond it.
"""

import contextlib
import json
import sys
from pathlib import Path

from gatecore.tasks import Config, train

CHECKPOINT, DEATH = 5, 7  # steps
SETTINGS = {
    "steps": 14, "log_every": 3, "evaluate_every": 5, "checkpoint_every": CHECKPOINT,
    "batch_size": 4, "length": 8, "validation_size": 6, "test_size": 10, "hidden_size": 10,
}  # fmt: skip
RUNS = {
    "copying-standard": ("copying", "standard", {}),
    "copying-UR": ("copying", "UR", {}),
    "copying-OM": ("copying", "OM", {"mechanism.downsize": 5}),
    "adding-gru-UR": ("adding", "UR", {"core": "gru", "layers": 2, "zoneout": [0.0, 0.1]}),
}
BACKENDS = ("numpy", "torch")


class Died(BaseException):
    """A death that no code of the library expects."""


def config(name, backend):
    """The configuration of one of the runs."""
    task, mechanism, settings = RUNS[name]
    return Config.of(task, mechanism, **SETTINGS, **settings, backend=backend)


def processor(backend):
    """The vector instructions in use, which the environment of a run does not record."""
    if backend != "torch":
        return {}
    import torch

    try:
        from gatecore.backends.native import library
    except ModuleNotFoundError:  # the version that made the data
        from gatecore.backends.kernels.cpu import library
    instructions = library.best_instruction_set() if library.available() else "not built"
    return {"torch": torch.backends.cpu.get_cpu_capability(), "native": instructions}


def die(step, _):
    """Stop a run after the step of its death."""
    if step == DEATH:
        raise Died


def main(folder):
    for backend in BACKENDS:
        for name in RUNS:
            place = Path(folder) / f"{name}-{backend}"
            train(config(name, backend), place / "finished")
            with contextlib.suppress(Died):
                train(config(name, backend), place / "interrupted", on_step=die)
            (place / "processor.json").write_text(json.dumps(processor(backend)) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
