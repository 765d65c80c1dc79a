"""`make gpu` succeeds only where checks ran, whatever else is installed; no GPU is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import run


@pytest.mark.parametrize(
    ("passed", "failed", "skipped", "devices", "reason"),
    [
        (3, 0, 0, 1, None),
        (3, 0, 2, 0, None),
        (3, 0, 2, 1, "2 checks were skipped although a CUDA device is visible"),
        (0, 0, 5, 0, "no check passed"),
        (0, 0, 0, 1, "no check passed"),
        (3, 1, 0, 1, "1 checks failed"),
    ],
)
def test_a_run_succeeds_where_checks_passed_and_no_visible_device_was_skipped(
    passed, failed, skipped, devices, reason
):
    counts = {"passed": passed, "failed": failed, "skipped": skipped}
    assert run.shortfall(counts, devices) == reason


def test_another_package_of_the_name_tests_is_no_obstacle(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("")
    (tmp_path / "cupy.py").write_text(
        "import types\n__version__ = '14.2.0'\n"
        "cuda = types.SimpleNamespace(is_available=lambda: False)\n"
    )
    command = [sys.executable, run.__file__, "--precision", "float32", "--only", "cupy: learner"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment,
                          cwd=Path(run.__file__).parent)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "float32: 0 passed, 0 failed, 1 skipped"
    assert done.stderr.strip() == "no check passed"
    assert done.returncode == 1
