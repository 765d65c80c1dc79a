"""The sequence operation by the native library, on the tensors' own memory and torch's threads."""

import functools
from typing import Any

import torch

from gatecore.backends.kernels.cpu import layer, library
from gatecore.backends.torch import explicit
from gatecore.cells import Cell


def obstacle(dtype: torch.dtype) -> str | None:
    """Why the library cannot run a sequence of this type; None if it can."""
    return layer.obstacle(explicit.DTYPES[dtype])


class Place(explicit.Place):
    """A CPU's memory, worked on by the library."""

    def layer(self, saves: bool, cell: Cell, *arguments: Any) -> Any:
        _share_threads()
        return layer.NativeLayer(cell, *arguments, threads=torch.get_num_threads(), saves=saves)


@functools.cache
def _share_threads() -> None:
    """Run on torch's own team, where it is one of OpenMP."""
    names = r"lib(gomp|iomp5|omp)[.-]"
    library.use_openmp_of(rf"/torch/.*{names}") or library.use_openmp_of(names)
