"""Modules keep the import paths that users' code has."""

import importlib
import subprocess
import sys

import pytest

from gatecore._moved import MOVED

OPTIONAL = {"tasks.worlds.gym": "gymnasium"} | {
    former: "torch" for former in MOVED if former.startswith("backends.torch.")
}


@pytest.mark.parametrize(("former", "present"), MOVED.items(), ids=list(MOVED))
def test_a_former_path_gives_the_module_of_the_present_one(former, present):
    if former in OPTIONAL:
        pytest.importorskip(OPTIONAL[former])
    module = importlib.import_module(f"gatecore.{former}")
    assert module is importlib.import_module(f"gatecore.{present}")
    assert module.__spec__.name == f"gatecore.{present}"


def test_a_former_package_gives_its_former_modules():
    from gatecore.backends.kernels import bridge
    from gatecore.tasks.worlds import players

    assert players.__name__ == "gatecore.tasks.environments.scripted_policies"
    assert bridge.__name__ == "gatecore.backends.cuda.interop"


def test_a_former_path_runs_as_a_command(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "gatecore.tasks.compare", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m gatecore.tasks.compare")
