"""The environment of a run: versions, BLAS, threads and commits, which determine its last bits."""

import contextlib
import importlib
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import gatecore

_BLAS = ("internal_api", "version", "architecture")
_DESCRIBE = ("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def distribution() -> importlib.metadata.Distribution:
    """This package's; a checkout that was installed before the renaming has the former name."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.distribution("gatecore-rnn")
    return importlib.metadata.distribution("gatecore")


def environment(backend: str) -> dict[str, Any]:
    """Software and hardware, as recorded beside a run's config.

    ``commit`` is that of gatecore's code, ``project_commit`` that of the current folder, each None
    outside a repository; ``threads`` is the number that BLAS and OpenMP may use.
    """
    libraries = threadpoolctl.threadpool_info()
    return {
        "gatecore": gatecore.__version__, "commit": commit(Path(gatecore.__file__)),
        "project_commit": _git(Path.cwd(), *_DESCRIBE), "python": platform.python_version(),
        "platform": platform.platform(), "numpy": np.__version__,
        "backend": f"{backend} {importlib.import_module(backend).__version__}",
        "blas": [" ".join(str(library[part]) for part in _BLAS if part in library)
                 for library in libraries if library["user_api"] == "blas"],
        "libraries": _versions(backend), "cores": os.cpu_count(),
        "threads": max((library["num_threads"] for library in libraries), default=1)}  # fmt: skip


def commit(file: Path) -> str | None:
    """The git commit that ``file`` belongs to, with "-dirty" if the repository has changes.

    None outside a repository, without git, and for an untracked file, as of an installed package.
    """
    tracked = _git(file.parent, "ls-files", "--error-unmatch", file.name) is not None
    return _git(file.parent, *_DESCRIBE) if tracked else None


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "-c", "core.fsmonitor=false", "-C", str(folder)]  # run no program of its own
    try:
        done = subprocess.run([*command, *words], capture_output=True, check=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _versions(backend: str) -> dict[str, str]:
    """Versions of the libraries that gatecore requires for tasks and for the backend."""
    versions = {}
    for requirement in distribution().requires or ():
        needed, _, marker = requirement.partition(";")
        extra = re.search(r"extra == .(\w+)", marker)
        name = re.match(r"[\w.-]+", needed)
        if name and (extra is None or extra[1] in ("tasks", backend)):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                versions[name[0]] = importlib.metadata.version(name[0])
    return versions
