"""The kernels' source, as one text for a run-time compiler, and the names of its instances."""

import functools
import importlib.resources
import re
from typing import Any

from gatecore.backends.common.layout import Layout
from gatecore.backends.cuda import support

FILES = (
    "cuda/src/gate.cuh", "common/formulas.h", "cuda/src/block.cuh", "cuda/src/sequence.cuh",
    "cuda/src/cells.cuh", "cuda/src/kernels.cu",
)  # fmt: skip
OPTIONS = ("-std=c++17", "--fmad=true")  # never --use_fast_math: gates live at the ends of exp
DIRECTIONS = ("forward", "backward")

_SCALARS = {"float32": "float", "float64": "double"}
_ACTIVATIONS = {"sigmoid": "by_sigmoid", "cumax": "by_cumax"}
_AUXILIARIES = {"none": "none", "refine": "refined", "master": "mastered"}


@functools.cache
def text() -> str:
    """All files in the order of their includes, which are left out: the text is self-contained.

    A compiler's cache is keyed by its text, so no edited header can be missed.
    """
    folder = importlib.resources.files("gatecore.backends")
    files = [folder.joinpath(name).read_text(encoding="utf-8") for name in FILES]
    return re.sub(r'^#(include "|pragma once).*\n', "", "".join(files), flags=re.MULTILINE)


def template_arguments(layout: Layout, dtype: Any) -> str:
    """The fields of a mechanism as the kernels' template arguments."""
    mechanism = layout.mechanism
    fields = (layout.core, _ACTIVATIONS[mechanism.activation], _AUXILIARIES[mechanism.auxiliary])
    return ", ".join((_SCALARS[str(dtype)], *(f"gatecore::{field}" for field in fields)))


def names(layout: Layout, dtype: Any) -> tuple[str, str]:
    """The name expressions of the forward and the backward kernel."""
    arguments = template_arguments(layout, dtype)
    return f"forward<{arguments}>", f"backward<{arguments}>"


def all_names() -> list[str]:
    """Every instance that exists, for whoever compiles them all."""
    return [
        f"{direction}<{_SCALARS[dtype]}, gatecore::{core}, "
        f"gatecore::{_ACTIVATIONS[activation]}, gatecore::{_AUXILIARIES[auxiliary]}>"
        for dtype in support.DTYPES
        for core in support.CORES
        for activation in support.ACTIVATIONS
        for auxiliary in support.AUXILIARIES
        for direction in DIRECTIONS
    ]
