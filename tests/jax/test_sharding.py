"""Data and model sharding, in a process that sees several devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("jax")


def lines_of(script):
    process = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name(script)],
        env={k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def test_sharded_over_several_devices_the_numbers_are_the_same():
    assert lines_of("sharded.py") == [
        "data ok", "data and model ok", "shard_map ok", "explicit axes ok",
    ]  # fmt: skip


def test_the_cells_of_flax_are_sharded_over_several_devices():
    pytest.importorskip("flax")
    kinds = [(library, mesh) for library in ("nnx", "linen") for mesh in ("mapped", "explicit")]
    assert lines_of("sharded_cells.py") == [f"with_{a} {b} ok" for a, b in kinds]
