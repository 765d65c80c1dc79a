"""What importing a part of gatecore loads, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

HEAVY = {
    "array_api_strict",
    "click",
    "cupy",
    "flax",
    "jax",
    "jinja2",
    "matplotlib",
    "pyarrow",
    "pydantic",
    "rich",
    "safetensors",
    "scipy",
    "sklearn",
    "sympy",
    "tensorboardX",
    "torch",
}


def loaded_by(statement, cwd):
    """Top-level modules in memory after `statement`; any warning is an error."""
    report = "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-W", "error", "-c", statement + report]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "gatecore",
        "gatecore.analysis",
        "gatecore.backends",
        "gatecore.backends.numpy",
        "gatecore.tasks",
    ],
)
def test_import_loads_no_framework_and_no_extra(module, tmp_path):
    assert not loaded_by(f"import {module}", tmp_path) & HEAVY


def test_the_command_line_starts_without_plots_data_sets_and_frameworks(tmp_path):
    loaded = loaded_by("import gatecore.tasks.cli", tmp_path)
    assert not loaded & (HEAVY - {"click", "pydantic", "rich", "safetensors"})
