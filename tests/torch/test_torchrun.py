"""`gatecore train` under torchrun: two processes leave the run that one would."""

import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("pydantic", reason="the tasks' dependencies are not installed")

from gatecore.tasks import Config, load_run, train  # noqa: E402

SMALL = {
    "length": 10, "hidden_size": 16, "validation_size": 7, "test_size": 7, "batch_size": 5,
    "steps": 6, "log_every": 1, "evaluate_every": 3, "checkpoint_every": 3,
}  # fmt: skip


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_a_task_under_torchrun_is_the_task_alone(tmp_path):
    settings = [word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2",
        "-m", "gatecore.tasks.cli", "train", "copying", "--backend", "torch", *settings,
        "--out", tmp_path / "two",
    ]  # fmt: skip
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    train(Config.of("copying", backend="torch", **SMALL), tmp_path / "one")
    lines = [load_run(tmp_path / name).metrics for name in ("one", "two")]
    assert len(lines[0]) == 6 + 3
    for alone, shared in zip(*lines, strict=True):
        assert shared.pop("split") == alone.pop("split")
        assert shared == pytest.approx(alone, abs=1e-5)
