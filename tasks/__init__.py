"""Tasks of the paper, their trainer, and the command line (extra ``tasks``).

Names are looked up on first use, so that importing this package loads no third-party library, and
a missing one is reported with the extra that installs it.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatecore.tasks import adding, copying, forgetting, language, match, pixels, programs
    from gatecore.tasks.config import TASKS, Config
    from gatecore.tasks.runs import Run, load_run
    from gatecore.tasks.sweeper import sweep
    from gatecore.tasks.sweeps import SweepConfig
    from gatecore.tasks.trainer import train

__all__ = [
    "TASKS",
    "Config",
    "Run",
    "SweepConfig",
    "adding",
    "copying",
    "forgetting",
    "language",
    "load_run",
    "match",
    "pixels",
    "programs",
    "report",
    "sweep",
    "train",
]

_HOMES = {"TASKS": "config", "Config": "config", "Run": "runs", "load_run": "runs",
          "SweepConfig": "sweeps", "sweep": "sweeper", "train": "trainer"}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module(f"{__name__}.{_HOMES.get(name, name)}")
    except ModuleNotFoundError as error:
        raise missing(error) from error
    return getattr(module, name) if name in _HOMES else module


def missing(error: ModuleNotFoundError, extra: str = "tasks") -> ModuleNotFoundError:
    """The same error, saying which extra installs a third-party module that was not found."""
    if error.name is None or error.name.partition(".")[0] == "gatecore":
        return error
    return ModuleNotFoundError(
        f"gatecore.tasks needs {error.name}, which is not installed: pip install "
        f"'gatecore[{extra}]'",
        name=error.name,
    )
