"""Two processes that share every batch learn what one does with the whole of it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from tests.torch.worker import learned  # noqa: E402


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_learn_what_one_does(tmp_path):
    root = Path(__file__).parents[2]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        Path(__file__).with_name("worker.py"), tmp_path,
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=root, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    alone = learned()
    for rank in (0, 1):
        found = np.load(tmp_path / f"rank{rank}.npz")
        for name, value in alone.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-13, err_msg=name)
