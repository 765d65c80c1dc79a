"""What the compiler makes of the kernels: instructions and registers, not times.

A step is short: each wait for memory, division or barrier counts. None of this is a measurement on
a GPU.
"""

import pytest

from gatecore import mechanism
from gatecore.backends.common.layout import layout_of
from gatecore.backends.cuda import nvrtc, source
from gatecore.cells import CELLS
from tests.cuda import sass

pytestmark = [
    pytest.mark.skipif(nvrtc.library() is None, reason="NVRTC is not installed"),
    pytest.mark.skipif(
        sass.disassembler() is None,
        reason="nvdisasm is not installed: pip install nvidia-cuda-nvdisasm",
    ),
]
TANHS = {"lstm": 2, "gru": 1, "minimal": 1}
SIGMOIDS = ("standard", "UR", "untied")


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """(forward, backward) of a cell in float32, compiled for compute capability 9.0."""
    folder, compiled = tmp_path_factory.mktemp("sass"), {}

    def kernels_of(cell):
        names = source.names(layout_of(cell), "float32")[:2]
        if names not in compiled:
            options = source.OPTIONS + source.CUPY_OPTIONS
            program = nvrtc.compile(nvrtc.library(), source.text(), 90, options, names)
            found = sass.instructions(program.image, folder)
            compiled[names] = [found[name] for name in program.names]
        return compiled[names]

    return kernels_of


def cell_of(core, name):
    gating = mechanism("UR", tied=False) if name == "untied" else mechanism(name)
    return CELLS[core](3, 64, gating)


@pytest.mark.parametrize("name", SIGMOIDS)
@pytest.mark.parametrize("core", TANHS)
def test_a_step_loads_all_its_numbers_before_it_computes_with_one(kernels, core, name):
    for kernel in kernels(cell_of(core, name)):
        assert sum(one.loads_a_number for one in kernel) >= 2 * (len(cell_of(core, name).slots) - 1)
        assert sass.loads_after_arithmetic(kernel) == []
        assert sass.count(kernel, "LD") == sass.count(kernel, "ST") == 0  # all known to be global


@pytest.mark.parametrize("name", SIGMOIDS)
@pytest.mark.parametrize("core", TANHS)
def test_a_sigmoid_and_a_tanh_take_one_reciprocal_each_and_no_division(kernels, core, name):
    cell = cell_of(core, name)
    sigmoids = len(cell.slots) - 1  # all slots but the candidate
    for kernel in kernels(cell):
        assert sass.count(kernel, "MUFU.RCP") == sigmoids + TANHS[core]
        assert sass.count(kernel, "MUFU.EX2") == sigmoids + TANHS[core]
        assert sass.count(kernel, "CALL") == 0


@pytest.mark.parametrize(("name", "gates"), [("OR", 1), ("O", 2), ("OM", 2)])
def test_ordered_gates_take_three_barriers_and_scans_by_shuffles(kernels, name, gates):
    """Both directions and both gates at once; 5 levels of a warp, and a shift by one."""
    forward, backward = kernels(cell_of("lstm", name))
    assert sass.count(forward, "BAR.SYNC") == 3  # the largest logit, the sums, the gates
    assert sass.count(backward, "BAR.SYNC") == 2  # the units' cotangents, the sums
    for kernel in (forward, backward):
        assert sass.count(kernel, "SHFL.UP") == sass.count(kernel, "SHFL.DOWN") == 6 * gates
        assert sass.count(kernel, "LD") == sass.count(kernel, "ST") == 0
        assert sass.count(kernel, "CALL") == 0


def test_a_load_that_comes_late_is_found():
    """The check itself, on instructions as a compiler orders them that has few registers."""
    text = """/*0010*/ LDG.E.64 R2, desc[UR4][R8.64] ;
              /*0020*/ LDG.E R4, desc[UR4][R2.64] ;
              /*0030*/ MOV R5, R4 ;
              /*0040*/ @!P0 FADD.FTZ R6, -R4.reuse, 1 ;
              /*0050*/ @P1 LDG.E.U8 R7, desc[UR4][R2.64+0x4] ;"""
    parsed = [sass.LINE.search(line) for line in text.splitlines()]
    kernel = [sass.Instruction(m[1], m[2].split(", ")) for m in parsed]
    assert [one.opcode for one in sass.loads_after_arithmetic(kernel)] == ["LDG.E.U8"]
    assert sass.loads_after_arithmetic(kernel[:4]) == []
