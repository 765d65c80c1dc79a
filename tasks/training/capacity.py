"""Refusal of runs that need more memory than the machine has, by an estimate and by the error."""

import contextlib
import itertools
import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gatecore.cells import CELLS
from gatecore.contracts.agent import AgentSpec
from gatecore.mechanisms import CORES
from gatecore.tasks.training.atomic_files import RunError
from gatecore.tasks.training.config import Config

_OUT_OF_MEMORY = ("out of memory", "allocate memory", "resource_exhausted")
_STEPS = ("length", "bptt", "explore", "distractor", "reward")  # settings that sum to the time
_CGROUP = Path("/sys/fs/cgroup/memory.max")  # of a container


def needed(config: Config) -> int:
    """A lower bound of the memory in bytes: parameters, Adam's moments, one batch, its states."""
    spec, task = config.spec(), config.task
    d, rows = spec.hidden_size, 0
    widths = [d if spec.residual else spec.features] + [d] * (spec.layers - 1)
    if spec.core in CORES:
        rows = spec.mechanism.rows(spec.core, d)  # type: ignore[union-attr]
    if isinstance(spec, AgentSpec):
        maps = [spec.shape[-1], *spec.channels] if spec.image else [math.prod(spec.shape)]
        seen = maps[-1] * math.prod(spec.shape[:-1])
        linear = [(9 * a, b) for a, b in itertools.pairwise(maps)]
        linear += [(seen, spec.features), *itertools.pairwise((spec.core_output_size, *spec.heads))]
    else:
        linear = [*spec.head_widths(), (spec.input_size, spec.features)]
    linear += [(d, d)] * spec.layers * spec.residual
    state = d if spec.core in CORES and CELLS[spec.core].recurrent else 0
    parameters = rows * sum(width + state for width in widths) + sum(a * b for a, b in linear)
    time = getattr(task, "unroll", None) or sum(getattr(task, name, 0) for name in _STEPS) or 1
    slots = 0 if spec.memory is None else (spec.memory.slots or 0) * (spec.memory.width or d)
    saved = config.batch_size * (2 * time * spec.layers * d + slots)
    held = 0 if isinstance(spec, AgentSpec) else 8 * time * getattr(task, "validation_size", 0)
    return np.dtype(config.dtype).itemsize * (4 * parameters + saved) + held


def memory_of_machine() -> float:
    """Bytes of physical memory, or of a container's limit; infinite where the system tells none."""
    total = math.inf
    with contextlib.suppress(AttributeError, OSError, ValueError):
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # the text "max"
        total = min(total, int(_CGROUP.read_text(encoding="ascii")))
    return total


@contextlib.contextmanager
def memory_errors(config: Config) -> Iterator[None]:
    """Raise a lack of memory as a RunError; torch and JAX report it as a RuntimeError."""
    sizes = {name: getattr(config, name) for name in ("hidden_size", "layers", "batch_size")}
    sizes |= config.task.model_dump()
    listed = ", ".join(f"{name}={value}" for name, value in sizes.items())
    if (least := needed(config)) > (most := memory_of_machine()):
        raise RunError(f"not enough memory: {least / 2**30:,.1f} GiB or more, and this machine has "
                       f"{most / 2**30:,.1f}; choose smaller sizes than {listed}")  # fmt: skip
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        message = str(error).lower()
        if isinstance(error, RuntimeError) and not any(w in message for w in _OUT_OF_MEMORY):
            raise
        raise RunError(f"not enough memory: choose smaller sizes than {listed}") from error
