"""Every kernel for every mechanism compiles for the GPUs that are supported; no GPU is needed."""

import itertools
import re

import pytest

from gatecore import mechanism
from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import nvrtc, source, support
from gatecore.cells import CELLS

needs_nvrtc = pytest.mark.skipif(
    nvrtc.library() is None, reason="NVRTC is not installed: pip install nvidia-cuda-nvrtc"
)


USED = re.compile(
    r"entry function '(\w+)'.*?(\d+) bytes spill stores.*?Used (\d+) registers", re.DOTALL
)
REMARK = re.compile(r"ptxas (info    :|        \.)|$")  # a line that is no warning


@needs_nvrtc
@pytest.mark.parametrize(
    ("architecture", "added"),
    [*((number, source.CUPY_OPTIONS) for number in support.ARCHITECTURES), (90, ())],
    ids=[*(f"CuPy, sm_{number}" for number in support.ARCHITECTURES), "torch, sm_90"],
)
@pytest.mark.parametrize("core", support.CORES)
def test_every_instance_compiles_without_a_warning_and_without_spills(architecture, added, core):
    names = [name for name in source.all_names() if f"gatecore::{core}," in name]
    names += map(source.copy, support.DTYPES)
    options = (*source.OPTIONS, *added, "--ptxas-options=-v")  # what runs, told
    binary, mangled, log = nvrtc.compile(
        nvrtc.library(), source.text(), architecture, options, names
    )
    assert [line for line in log.splitlines() if not REMARK.match(line)] == []
    assert binary[:4] == b"\x7fELF"
    assert len(set(mangled)) == len(names) == 2 * 2 * 2 * 4 + 2
    assert all(f".text.{name}\0".encode() in binary for name in mangled)  # each has code
    used = {name: (int(spilled), int(count)) for name, spilled, count in USED.findall(log)}
    assert used.keys() == set(mangled)
    for name, (spilled, registers) in used.items():
        assert spilled == 0, name
        assert registers * support.MAX_THREADS <= 2**16, name  # a block fits a multiprocessor


@needs_nvrtc
@pytest.mark.parametrize(("scalar", "flushed"), [("float", True), ("double", False)])
def test_cupys_options_change_float32_alone(scalar, flushed):
    text = f"__global__ void f({scalar}* x) {{ *x = *x * ({scalar})0.5; }}"
    own, cupys = (
        nvrtc.compile(nvrtc.library(), text, support.ARCHITECTURES[0], options, ["f"]).image
        for options in (source.OPTIONS, source.OPTIONS + source.CUPY_OPTIONS)
    )
    assert (own != cupys) == flushed


@needs_nvrtc
def test_what_does_not_compile_is_told():
    with pytest.raises(ValueError, match="identifier"):
        nvrtc.compile(nvrtc.library(), "__global__ void f() { undeclared(); }", 80)


@needs_nvrtc
def test_a_gpu_newer_than_the_compiler_gets_ptx():
    library = nvrtc.library()
    assert nvrtc.version(library) >= (12, 0)
    image = nvrtc.compile(library, "__global__ void f() {}", 10**6, ["-ftz=false"], ["f"]).image
    assert b".entry _Z1fv" in image


@pytest.mark.parametrize("core", support.CORES)
def test_every_mechanism_names_an_instance(core):
    fields = itertools.product(support.ACTIVATIONS, support.AUXILIARIES, support.DTYPES)
    named = set()
    for activation, kind, dtype in fields:
        gates = {"auxiliary": "refine", "tied": False} if kind == "untied" else {"auxiliary": kind}
        bias = 0.0 if activation == "cumax" else 1.0
        own = mechanism("standard", activation=activation, forget_bias=bias, **gates)
        named |= set(source.names(layout_of(CELLS[core](3, 4, own)), dtype)[:2])
    assert named == {name for name in source.all_names() if f"gatecore::{core}," in name}
