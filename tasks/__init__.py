"""The paper's tasks, their trainer, sweeps, reports and the command line (extra ``tasks``).

Names are imported on first use: importing this package loads no third-party library, and the error
about a missing one names the extra that installs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatecore.tasks.problems import adding, copying, forgetting, match
    from gatecore.tasks.problems.language import task as language
    from gatecore.tasks.problems.pixels import task as pixels
    from gatecore.tasks.problems.programs import task as programs
    from gatecore.tasks.reports import report
    from gatecore.tasks.sweeps.config import SweepConfig
    from gatecore.tasks.sweeps.scheduler import sweep
    from gatecore.tasks.training.config import TASKS, Config
    from gatecore.tasks.training.run import Run, load_run
    from gatecore.tasks.training.trainer import train

__all__ = [
    "TASKS", "Config", "Run", "SweepConfig", "adding", "copying", "forgetting", "language",
    "load_run", "match", "pixels", "programs", "report", "sweep", "train",
]  # fmt: skip

_MODULES = {  # the module of each public name, or that it is in
    "TASKS": "training.config", "Config": "training.config", "SweepConfig": "sweeps.config",
    "Run": "training.run", "load_run": "training.run", "train": "training.trainer",
    "sweep": "sweeps.scheduler", "report": "reports.report",
    "language": "problems.language.task", "pixels": "problems.pixels.task",
    "programs": "problems.programs.task",
    **{name: f"problems.{name}" for name in ("adding", "copying", "forgetting", "match")},
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        raise missing(error) from error
    return getattr(module, name, module)


def missing(error: ModuleNotFoundError, extra: str = "tasks") -> ModuleNotFoundError:
    """The same error, with the extra that installs the third-party module."""
    if error.name is None or error.name.partition(".")[0] == "gatecore":
        return error
    text = f"gatecore.tasks needs {error.name}, which is not installed: in a checkout of gatecore, "
    return ModuleNotFoundError(f"{text}pip install -e '.[{extra}]'", name=error.name)
