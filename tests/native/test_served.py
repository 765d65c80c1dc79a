"""The library behind a pipe, as `make arm` calls one for another processor."""

import shutil
import subprocess
from pathlib import Path
from unittest import mock

import pytest

from gatecore.backends.native import call, library
from tests.native.layers import SUPPORTED, Case, identical, worst
from tests.native.served import ServedLibrary

if not library.available():
    pytest.skip(library.unsupported(), allow_module_level=True)
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """This processor's own library, in a process of its own."""
    compiler = next(filter(None, map(shutil.which, ("g++", "clang++"))), None)
    if not compiler or not hasattr(library.library(), "_name"):
        pytest.skip("no C++ compiler")
    built, program = Path(library.library()._name), tmp_path_factory.mktemp("served") / "served"
    sources = HERE.parents[1] / "backends" / "native" / "src"
    command = [compiler, "-std=c++17", f"-I{sources}", HERE / "served.cpp", built, "-o", program]
    subprocess.run([*command, f"-Wl,-rpath,{built.parent}"], check=True)
    yield (client := ServedLibrary([program]))
    client.close()


@pytest.fixture
def behind_a_pipe(served):
    """A function that gives a layer's results by the served library."""

    def results(layer, instruction_set):
        with mock.patch.object(library, "_loaded", return_value=(served, None)):
            call.layer_call.cache_clear()
            return layer.results(instruction_set, "columns", 2)

    yield results
    call.layer_call.cache_clear()


@pytest.mark.parametrize("core", ["lstm", "gru", "mingru"])
@pytest.mark.parametrize("instruction_set", SUPPORTED)
def test_it_gives_the_bits_of_a_direct_call(behind_a_pipe, instruction_set, core):
    layer = Case(core, "OM/2", 5, 3, 2, 22, resets=True, zoneout="masks", cells=core == "lstm")
    direct = layer.results(instruction_set, "columns", 2)
    assert identical(behind_a_pipe(layer, instruction_set), direct)


def test_a_wrong_weight_on_the_other_side_of_the_pipe_is_found(behind_a_pipe):
    layer = Case("lstm", "UR", 5, 3, 2, 21)
    assert worst(behind_a_pipe(layer, None), layer.expected) < 2e-5
    layer.arguments["params"]["weight_hh"][3, 5] += 0.1
    assert worst(behind_a_pipe(layer, None), layer.expected) > 2e-5
