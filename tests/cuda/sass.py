"""The instructions of compiled kernels, by nvdisasm, which needs no GPU."""

import functools
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

LINE = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][\w.]*)\s*(.*?)\s*;")
REGISTER = re.compile(r"\bR\d+\b")
FLOAT = re.compile(r"F(ADD|MUL|FMA|SEL|SETP|MNMX)|MUFU")


class Instruction(NamedTuple):
    """An instruction without its predicate."""

    opcode: str  # with modifiers: "LDG.E.64"
    operands: list[str]

    @property
    def written(self):
        """The first register that it writes, if any."""
        stores = self.opcode.startswith(("ST", "RED", "BRA", "EXIT"))
        first = "" if stores or not self.operands else self.operands[0]
        return first if REGISTER.fullmatch(first) else None

    @property
    def read(self):
        """The registers that it names beside that one."""
        operands = self.operands[1:] if self.written else self.operands
        return {name for operand in operands for name in REGISTER.findall(operand)}

    @property
    def loads_a_number(self):
        """Whether it loads from global memory what is not a pointer or another field."""
        return self.opcode.startswith(("LDG", "LD.")) and ".64" not in self.opcode


@functools.cache
def disassembler():
    """The program, from a wheel (nvidia-cuda-nvdisasm) or a toolkit; None where there is none."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob("*/bin/nvdisasm*")):
            return str(path)
    return shutil.which("nvdisasm")


def instructions(cubin, folder):
    """The instructions of each kernel of a cubin, by its mangled name."""
    path = folder / "kernels.cubin"
    path.write_bytes(cubin)
    done = subprocess.run(
        [disassembler(), "-c", str(path)], capture_output=True, text=True, check=True
    )
    kernels = {}
    for line in done.stdout.splitlines():
        if line.startswith(".text."):
            current = kernels[line.removeprefix(".text.").rstrip(":")] = []
        elif found := LINE.search(line):
            operands = [part.strip() for part in found[2].split(",")] if found[2] else []
            current.append(Instruction(found[1], operands))
    return kernels


def loads_after_arithmetic(kernel):
    """The loads of numbers that come after the first arithmetic with a loaded number."""
    loaded, waiting, late = set(), False, []
    for one in kernel:
        if one.loads_a_number:
            late += [one] * waiting
            loaded.add(one.written)
            continue
        waiting = waiting or bool(FLOAT.match(one.opcode) and one.read & loaded)
        loaded.discard(one.written)
    return late


def count(kernel, opcode):
    """How many instructions have this opcode, with its modifiers or the first of them."""
    return sum(one.opcode == opcode or one.opcode.startswith(f"{opcode}.") for one in kernel)
