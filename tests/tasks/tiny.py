"""Runs small enough for a test: a few steps of a few units."""

from gatecore.tasks import Config

SIZES = {
    "hidden_size": 16,
    "batch_size": 4,
    "steps": 12,
    "log_every": 3,
    "evaluate_every": 5,
    "checkpoint_every": 4,
}
SETS = {"length": 8, "validation_size": 6, "test_size": 10}


def tiny(task="copying", mechanism="UR", **settings):
    """A configuration of `task` that trains in a fraction of a second."""
    sets = {} if task == "pixels" else SETS
    return Config.of(task, mechanism, **{**SIZES, **sets, **settings})


def arguments(*extra, **changes):
    """The command line of the same run, without its task and output folder."""
    assigned = {**SIZES, **SETS, **changes}
    return [*(word for k, v in assigned.items() for word in ("--set", f"{k}={v}")), *extra]
