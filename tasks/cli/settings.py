"""Parts of several commands: folders as options, and settings as KEY=VALUE."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from gatecore.tasks.training.config import ConfigError

FOLDER = click.Path(file_okay=False, path_type=Path)
ONE = "KEY=VALUE, for example length=500"
SEVERAL = "KEY=VALUE or KEY=V1,V2, for example length=50,100"


def read_assignments(
    texts: Iterable[str], options: Mapping[str, Any], *, several: bool = False
) -> dict[str, Any]:
    """The options that are not None, and the values of KEY=VALUE texts, by key.

    Raises
    ------
    ConfigError
        A text has another form, or a key occurs twice.
    """
    settings = {name: value for name, value in options.items() if value is not None}
    for text in texts:
        key, separator, value = text.partition("=")
        key = key.strip()
        if not separator or not key or (several and not value.strip()):
            raise ConfigError(f"--set {text!r} should be {SEVERAL if several else ONE}")
        if key in settings:
            raise ConfigError(f"{key} is given twice: remove one of the two")
        settings[key] = read_values(value) if several else read_value(value)
    return settings


def read_value(text: str) -> Any:
    """A value as JSON where it is (5, 1e-3, true, null, [0.5, 0.05]), else as text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None if text.lower() == "none" else text


def read_values(text: str) -> list[Any]:
    """Values between commas, as JSON, which may have commas within brackets, or else as text."""
    try:
        return json.loads(f"[{text}]")
    except json.JSONDecodeError:
        return [read_value(part.strip()) for part in text.split(",")]
