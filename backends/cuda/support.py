"""The calls that the kernels support, as data."""

import dataclasses
from typing import Any

from gatecore.backends.common.layout import Layout
from gatecore.cells import Cell

CORES = ("lstm", "gru", "minimal")
ACTIVATIONS = ("sigmoid", "cumax")
AUXILIARIES = ("none", "refine", "master", "untied")
DTYPES = ("float32", "float64")
ARCHITECTURES = (80, 90)  # that the tests compile for; any GPU from the first on will do

MAX_THREADS = 512  # of a block, as the kernels' launch bounds say
WARP = 32


@dataclasses.dataclass(frozen=True)
class Limits:
    """Sizes that a kernel accepts, each a closed range (None: no end)."""

    hidden_size: tuple[int, int | None] = (2, None)
    batch: tuple[int, int] = (1, 2**31 - 1)  # one block a batch row
    time: tuple[int, int | None] = (1, None)
    compute_capability: tuple[int, int | None] = (ARCHITECTURES[0], None)


LIMITS = Limits()


def unsupported(cell: Cell, steps: tuple[int, int], dtype: Any) -> str | None:
    """Why the kernels can't run this sequence of (time, batch) steps; None where they can."""
    if cell.layer_norm:
        return "they have no layer normalization"
    mechanism = cell.mechanism
    fields = (("core", cell.core, CORES), ("activation", mechanism.activation, ACTIVATIONS),
              ("auxiliary", mechanism.kind, AUXILIARIES),
              ("dtype", str(dtype), DTYPES))  # fmt: skip
    for name, value, known in fields:
        if value not in known:
            return f"{name} {value!r} is none of {', '.join(known)}"
    sizes = (("hidden_size", cell.hidden_size), ("time", steps[0]), ("batch", steps[1]))
    return next((_outside(n, v) for n, v in sizes if _outside(n, v)), None)


def device_unsupported(compute_capability: int) -> str | None:
    """Why the kernels can't run on a GPU of this compute capability (90 for 9.0)."""
    return _outside("compute_capability", compute_capability)


def _outside(name: str, value: int) -> str | None:
    low, high = getattr(LIMITS, name)
    if value >= low and (high is None or value <= high):
        return None
    return f"{name} {value} is not in {low}..{'' if high is None else high}"


@dataclasses.dataclass(frozen=True)
class Geometry:
    """How a step is launched: blocks (rows, blocks a row), threads a block, shared bytes."""

    grid: tuple[int, int]
    threads: int
    shared: int


def geometry(layout: Layout, batch: int, itemsize: int) -> Geometry:
    """The launch for a step: the same for equal shapes, so that results repeat bit for bit.

    Gates that depend on each other (ordered or master gates) need a whole row in one block.
    """
    mechanism = layout.mechanism
    together = mechanism.activation == "cumax" or mechanism.auxiliary == "master"
    most = MAX_THREADS if together else 4 * WARP
    threads = min(most, -(-layout.hidden_size // WARP) * WARP)
    blocks = 1 if together else -(-layout.hidden_size // threads)
    return Geometry((batch, blocks), threads, 6 * (threads // WARP) * itemsize)
