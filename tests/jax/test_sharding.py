"""Data and model sharding, in a process that sees several devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")


def test_sharded_over_several_devices_the_numbers_are_the_same():
    process = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name("sharded.py")],
        env={k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines() == [
        "data ok", "data and model ok", "shard_map ok", "explicit axes ok",
    ]  # fmt: skip
