"""What else determines a run's last bits: versions, BLAS, thread count, the code's commit."""

import importlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl

import gatecore


def environment(backend: str) -> dict[str, Any]:
    """The software and hardware at hand, as recorded beside a run's config."""
    libraries = threadpoolctl.threadpool_info()
    return {
        "gatecore": importlib.metadata.version("gatecore"),
        "commit": commit(Path(gatecore.__file__)),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "backend": f"{backend} {importlib.import_module(backend).__version__}",
        "blas": [
            f"{library['internal_api']} {library['version']}"
            for library in libraries
            if library["user_api"] == "blas"
        ],
        "threads": max((library["num_threads"] for library in libraries), default=1),
    }


def commit(file: Path) -> str | None:
    """The git commit that ``file`` belongs to, with "-dirty" if anything there was changed.

    None outside a repository, for a file that is not tracked (a package installed into somebody's
    project), and where git is not installed.
    """
    git = ["git", "-C", str(file.parent)]
    try:
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", file.name], capture_output=True, check=True
        )
        described = subprocess.run(
            [*git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, check=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
