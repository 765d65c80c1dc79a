"""The package: its exports, and the packages that its import loads and requires."""

import subprocess
import sys

import pytest

import gatecore.analysis
from gatecore.analysis import permutation
from gatecore.tasks.problems.pixels import task


@pytest.mark.parametrize("name", gatecore.analysis.__all__)
def test_every_exported_name_exists(name):
    assert getattr(gatecore.analysis, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'equivalences'"):
        gatecore.analysis.equivalences  # noqa: B018


def python(code):
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("missing", ["sympy", "scipy", "matplotlib"])
def test_the_error_for_a_missing_package_names_it_and_its_extra(missing):
    done = python(f"import sys; sys.modules[{missing!r}] = None; import gatecore.analysis")
    assert done.returncode
    assert f"needs {missing}" in done.stderr
    assert "pip install '.[analysis]'" in done.stderr
    assert "ModuleNotFoundError" in done.stderr.splitlines()[-1]


def test_importing_every_module_loads_no_backend_and_runs_no_check():
    code = (
        "import sys, time, gatecore.analysis as a; start = time.process_time(); "
        "[getattr(a, name) for name in a.__all__]; "
        "print(*{n.partition('.')[0] for n in sys.modules}, *(n for n in sys.modules if 'backends' "
        "in n and n.startswith('gatecore')), time.process_time() - start)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    *loaded, seconds = done.stdout.split()
    assert not set(loaded) & {"torch", "jax", "cupy", "gatecore.backends"}
    assert float(seconds) < 5


def test_the_tasks_use_the_permutation_of_the_claim():
    assert task.bit_reversal is permutation.bit_reversal
