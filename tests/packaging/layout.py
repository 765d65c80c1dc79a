"""Where the sources are and how folders map to packages, read from pyproject.toml."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = {
    package: ROOT / folder
    for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items()
}


def modules():
    """Every module of the library: its dotted name and its file."""
    for package, folder in sorted(FOLDERS.items()):
        for file in sorted(folder.rglob("*.py")):
            parts = file.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *(p for p in parts if p != "__init__"))), file


def requirements(extra):
    """The import-relevant names of an extra's requirements: no versions, no markers."""
    listed = PROJECT["project"]["optional-dependencies"][extra]
    return {re.split(r"[^\w.-]", entry, maxsplit=1)[0] for entry in listed}
