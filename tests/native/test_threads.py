"""Threads of the native library: concurrent calls, forks, fewer threads than requested."""

import concurrent.futures
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gatecore.backends.native import layer as native_layer
from gatecore.backends.native import library
from tests.native.layers import Case, identical

if not library.available():
    pytest.skip(library.unsupported(), allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]


def run(script, *arguments, **environment):
    """A script of this folder in a process of its own; a hang is a failure."""
    command = [sys.executable, f"tests/native/{script}.py", *arguments]
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    with subprocess.Popen(
        command, env=variables, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            _, errors = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # its children would go on spinning
            raise
    if process.returncode == 77:
        pytest.skip("torch was not built with GNU's OpenMP")
    assert process.returncode == 0, errors


needs_torch = pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="no torch")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@pytest.mark.parametrize("threads", [2, 3, 9])
def test_more_threads_than_work_or_cores(threads):
    for case in (Case("lstm", "UR", 4, 1, 1, 2), Case("minimal", "OM", 3, 2, 1, 6)):
        alone = case.results()
        for split in ("batch", "columns"):
            assert identical(case.results(None, split, threads), alone)


def test_concurrent_calls_give_the_results_of_calls_alone():
    cases = [Case(core, "UR", 9, 5, 3, 38, zoneout="masks") for core in ("lstm", "gru")] * 2
    alone = [case.results() for case in cases]

    def work(k):
        for n in range(12):
            split = ("batch", "columns", "auto")[n % 3]
            if not identical(cases[k].results(None, split, 1 + n % 3), alone[k]):
                return False
            if k == 0 and n % 5 == 0:
                native_layer.release()
        return True

    with concurrent.futures.ThreadPoolExecutor(len(cases)) as pool:
        assert all(pool.map(work, range(len(cases)), timeout=120))


@needs_fork
def test_a_forked_child_starts_threads_of_its_own():
    run("forked", "own")


@needs_fork
@needs_torch
def test_a_forked_child_leaves_the_parents_openmp_alone():
    run("forked", "openmp")


def test_threads_forks_and_refused_calls_at_once():
    run("stress")


@needs_torch
def test_fewer_threads_than_requested_give_the_same():
    run("limited_openmp")


@needs_torch
def test_a_limit_on_openmp_is_obeyed():
    run("limited_openmp", OMP_THREAD_LIMIT="1")


def test_omp_num_threads_sets_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert library.cores() == 3
    for nothing in ("", "many", "0"):
        monkeypatch.setenv("OMP_NUM_THREADS", nothing)
        assert 1 <= library.cores() <= os.cpu_count()
