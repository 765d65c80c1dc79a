"""What importing a part of gatecore loads, seen from a fresh interpreter."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "array_api_strict",
    "click",
    "cupy",
    "flax",
    "jax",
    "jinja2",
    "keras",
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
    "wandb",
}


def printed_by(statements, cwd):
    """The words that a fresh interpreter prints; any warning is an error."""
    command = [sys.executable, "-W", "error", "-c", statements]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def loaded_by(statement, cwd):
    """Top-level modules in memory after `statement`."""
    report = "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(printed_by(statement + report, cwd))


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


def test_the_jax_backend_loads_jax_alone(tmp_path):
    pytest.importorskip("jax", reason="jax is not installed")
    statement = "import gatecore.backends.jax, sys; print(*sys.modules)"
    heavy = HEAVY - {"jax", "scipy"} | {"equinox", "haiku", "keras", "optax", "orbax"}
    assert not set(printed_by(statement, tmp_path)) & heavy


def test_the_command_line_starts_without_plots_data_sets_and_frameworks(tmp_path):
    loaded = loaded_by("import gatecore.tasks.cli.commands", tmp_path)
    assert not loaded & (HEAVY - {"click", "pydantic", "rich", "safetensors"})


THREADS = """
import os, numpy
before = len(os.listdir("/proc/self/task"))
import gatecore, gatecore.backends.numpy, gatecore.tasks
print(*(line.split()[-1] for line in open("/proc/self/maps") if "native/_native" in line))
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="the system does not list threads")
def test_import_loads_no_native_library_and_starts_no_thread(tmp_path):
    assert printed_by(THREADS, tmp_path) == ["0"]


def test_the_torch_backend_leaves_the_compiler_of_torch_unloaded(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    statement = "import sys, gatecore.backends.torch; print('torch._dynamo' in sys.modules)"
    assert printed_by(statement, tmp_path) == ["False"]


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_backend_leaves_keras_unloaded(framework, tmp_path):
    pytest.importorskip(framework, reason=f"{framework} is not installed")
    pytest.importorskip("keras", reason="keras is not installed")
    assert "keras" not in loaded_by(f"import gatecore.backends.{framework}", tmp_path)
