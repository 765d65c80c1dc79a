"""The kernels' source, as one text for a run-time compiler, and the names of its instances."""

import functools
import importlib.resources
import itertools
import re
from typing import Any

from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import support

FILES = ("cuda/src/gate.cuh", "common/formulas.h", "cuda/src/block.cuh", "cuda/src/sequence.cuh",
         "cuda/src/cells.cuh", "cuda/src/copies.cuh", "cuda/src/kernels.cu")  # fmt: skip
OPTIONS = ("-std=c++17", "--fmad=true")  # never --use_fast_math: gates live at the ends of exp
# CuPy appends these (14, cupy/cuda/compiler.py): float32 numbers below 1.2e-38 become 0
CUPY_OPTIONS = ("-ftz=true", "--device-as-default-execution-space")
DIRECTIONS = ("forward", "backward")

_SCALARS = {"float32": "float", "float64": "double"}
_ACTIVATIONS = {"sigmoid": "by_sigmoid", "cumax": "by_cumax"}
_AUXILIARIES = {"none": "none", "refine": "refined", "master": "mastered", "untied": "untied"}


@functools.cache
def text() -> str:
    """All files in the order of their includes, which are left out: the text is self-contained.

    A compiler's cache is keyed by its text, so no edited header can be missed.
    """
    folder = importlib.resources.files("gatecore.backends")
    files = [folder.joinpath(name).read_text(encoding="utf-8") for name in FILES]
    return re.sub(r'^#(include "|pragma once).*\n', "", "".join(files), flags=re.MULTILINE)


def name(direction: str, dtype: Any, core: str, activation: str, auxiliary: str) -> str:
    """The name expression of a kernel."""
    fields = (core, _ACTIVATIONS[activation], _AUXILIARIES[auxiliary])
    arguments = (_SCALARS[str(dtype)], *(f"gatecore::{field}" for field in fields))
    return f"{direction}<{', '.join(arguments)}>"


def names(layout: Layout, dtype: Any) -> tuple[str, str, str]:
    """The name expressions of the forward and the backward kernel, and of that which copies."""
    mechanism = layout.mechanism
    fields = (dtype, layout.core, mechanism.activation, mechanism.kind)
    return name("forward", *fields), name("backward", *fields), copy(dtype)


def copy(dtype: Any) -> str:
    """The name expression of the kernel that uploads a call's arguments, and copies its arrays."""
    return f"copy<{_SCALARS[str(dtype)]}>"


def all_names() -> list[str]:
    """The name expressions of all kernels that compute."""
    fields = support.DTYPES, support.CORES, support.ACTIVATIONS, support.AUXILIARIES
    return [name(*instance) for instance in itertools.product(DIRECTIONS, *fields)]
