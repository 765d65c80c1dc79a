"""The command line (``gatecore``)."""

from typing import Any

__all__ = ["main"]


def __getattr__(name: str) -> Any:
    if name != "main":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gatecore.tasks.cli.commands import main

    return main
