"""`make gpu` succeeds only where checks ran, whatever else is installed; no GPU is needed."""

import os
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from gatecore.backends.cuda.steps import KernelEngine
from gatecore.backends.numpy import bptt
from tests.cuda.host import HostLauncher
from tests.gpu import arrays, checks, run


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


class CutProducts:
    """NumPy, whose products cut their operands to so many bits of a float32."""

    def __init__(self, bits):
        self.mask = np.uint32(2**32 - 2 ** (24 - bits))

    def __getattr__(self, name):
        return getattr(np, name)

    def cut(self, array):
        return (np.ascontiguousarray(array).view(np.uint32) & self.mask).view(np.float32)

    def matmul(self, a, b, out=None):
        return np.matmul(self.cut(a), self.cut(b), out=out)


def largest_error(library, bits, core, name):
    """The largest relative error of a check's sequence whose products have so many bits."""
    case = arrays.random_case(core, name, checks.SMALL, np.random.default_rng(7))
    launcher = HostLauncher(library)
    launcher.xp = CutProducts(bits)
    launcher.replay = lambda buffers, direction, body: body(launcher.xp.matmul)
    single = arrays.tree(np.float32, (case.params, case.x, case.state, case.d_output, case.d_state))
    params, x, state, d_output, d_state = single
    output, last, pullback = bptt.run(
        KernelEngine(launcher), core, params, x, state, case.mechanism, impl="fused"
    )
    results = output, last, pullback(d_output, d_state)
    pairs = zip(
        arrays.leaves(results), arrays.leaves(arrays.Reference().sequence(case)), strict=True
    )
    return max(checks.relative(got, wanted) for (_, got), (_, wanted) in pairs)


@pytest.mark.parametrize("core", checks.CORES)
@pytest.mark.parametrize("name", ["standard", "UR", "OM"])
def test_the_tolerance_for_tf32_allows_operands_that_are_cut_and_no_less(host_library, core, name):
    tolerance = checks.TOLERANCES["tf32"]
    assert largest_error(host_library, 11, core, name) < tolerance
    assert largest_error(host_library, 8, core, name) > tolerance
    assert largest_error(host_library, 24, core, name) < checks.TOLERANCES["float32"]


def test_the_memory_of_both_pools_is_poisoned(monkeypatch):
    filled = []

    def framework(name):
        def full(shape, fill_value, dtype, device="cuda"):
            assert np.isnan(fill_value)
            assert (dtype, device) == ("f4", "cuda")
            filled.append((name, 4 * shape[0]))

        cuda = types.SimpleNamespace(
            is_available=lambda: True, synchronize=lambda: None,
            get_current_stream=lambda: types.SimpleNamespace(synchronize=lambda: None),
        )  # fmt: skip
        return types.SimpleNamespace(full=full, float32="f4", cuda=cuda)

    monkeypatch.setattr(arrays, "module", framework)
    arrays.poison(megabytes=1)
    for name in ("cupy", "torch"):
        sizes = [size for owner, size in filled if owner == name]
        assert sorted(set(sizes)) == [2**k for k in range(9, 21)]
        assert len(sizes) == 2 * 12
