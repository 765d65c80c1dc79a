"""The choice of an instruction set, and the limit that GATECORE_MAX_ISA sets."""

import pytest

from gatecore.backends import native
from gatecore.backends.native import library
from tests.native.layers import SUPPORTED, Case, identical

if not library.available():
    pytest.skip(library.unsupported(), allow_module_level=True)


@pytest.fixture
def limited(monkeypatch):
    """A function that sets the limit, which the library reads once a process."""

    def limit(name):
        monkeypatch.setenv("GATECORE_MAX_ISA", name)
        native.instruction_set.cache_clear()

    yield limit
    monkeypatch.undo()
    native.instruction_set.cache_clear()


def test_without_a_limit_the_widest_that_the_processor_has_is_used(limited):
    limited("")
    assert native.instruction_set() == library.best_instruction_set() == SUPPORTED[-1]


@pytest.mark.parametrize("name", library.INSTRUCTION_SETS)
def test_the_limit_is_used_unless_the_processor_lacks_it(limited, name):
    limited(name)
    assert native.instruction_set() == (name if name in SUPPORTED else SUPPORTED[-1])


@pytest.mark.parametrize("name", SUPPORTED)
def test_a_layer_computes_by_the_limited_instruction_set(limited, name):
    limited(name)
    layer = Case("lstm", "UR", 5, 3, 2, 21 + len(name))  # of its own size: calls are cached
    assert layer.native()[0].layer_call.struct.instruction_set == SUPPORTED.index(name)
    assert identical(layer.results(), layer.results(name))


def test_an_unknown_limit_raises(limited):
    limited("avx3")
    known = ", ".join(library.INSTRUCTION_SETS)
    with pytest.raises(ValueError, match=f"GATECORE_MAX_ISA='avx3' is not one of {known}"):
        native.instruction_set()
    with pytest.raises(ValueError, match="GATECORE_MAX_ISA='avx3'"):
        Case("lstm", "UR", 4, 3, 2, 31).native()


def test_the_name_of_another_processors_instruction_set_raises(limited):
    foreign = {"neon", "avx2"} - set(library.INSTRUCTION_SETS)
    limited(*foreign)
    with pytest.raises(ValueError, match=f"GATECORE_MAX_ISA='{foreign.pop()}' is not one of"):
        native.instruction_set()


def test_the_loop_of_multiply_adds_counts_its_operations():
    count = library.library().gatecore_multiply_adds
    lanes = {"portable": 4, "avx2": 8, "avx512": 16, "neon": 4}
    for k, name in enumerate(library.INSTRUCTION_SETS):
        assert count(k, 100) == (2 * 12 * lanes[name] * 100 if name in SUPPORTED else 0)
