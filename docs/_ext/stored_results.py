"""The stored results of ``docs/evidence/``, which are ``results.json`` of ``gatecore report``."""

import functools
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "evidence"
_CORES = {"mingru": "MinGRU"}  # names that are no abbreviation


@functools.cache
def groups() -> dict[str, dict[str, Any]]:
    """The groups of comparable runs by heading, in the order of the files.

    Raises ValueError for two groups of one heading.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(FOLDER.glob("*.json")):
        for group in json.loads(path.read_text(encoding="utf-8"))["groups"]:
            if (name := heading(group)) in found:
                raise ValueError(f"two groups of results are called {name!r}, one in {path.name}")
            found[name] = group
    return found


def heading(group: dict[str, Any]) -> str:
    """The title of the task, with what is not the default: the core, the layers, the blocks."""
    settings = group["settings"]
    core, layers = settings["core"], settings["layers"]
    parts = [group["title"]]
    if core != "lstm":
        parts.append(_CORES.get(core, core.upper()))
    if layers > 1:
        parts.append(f"{layers} layers")
    if settings.get("residual"):  # older results do not have the setting
        parts.append("residual")
    return ", ".join(parts)


def scores(group: dict[str, Any], label: str) -> dict[int, float]:
    """Test scores of a kind of gates by seed, of those that have one; empty for an unknown one."""
    tests = group["mechanisms"].get(label, {"test_by_seed": {}})["test_by_seed"]
    return {int(seed): score for seed, score in tests.items() if score is not None}
